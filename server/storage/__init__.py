"""Everything that outlives the process: database, keys, ledger, requests, peers and pictures."""
