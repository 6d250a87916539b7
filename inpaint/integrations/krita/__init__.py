"""The Krita plugin, as the files that ``inpaint krita install`` copies into Krita's resource folder."""
