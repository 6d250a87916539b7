"""The migrations of the tables, one file each; ``Database.migrate`` runs those that are missing."""
