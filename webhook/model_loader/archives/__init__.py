"""Models that are archives, unpacked after verification.

They are `.tar`, `.tar.gz`, `.tgz`, `.tar.bz2`, `.tar.xz`, `.tar.zst` and `.zip`. The loader refuses links, devices and
everything else that is not a file or folder, unsafe names, and decompression bombs. It ignores the members' modes,
owners and times.
"""
