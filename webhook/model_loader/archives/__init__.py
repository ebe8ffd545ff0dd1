"""Models that are archives: `.tar`, `.tar.gz`, `.tgz`, `.tar.bz2`, `.tar.xz` and `.zip`, unpacked after verification.

The loader refuses links, devices and everything else that is not a file or folder, unsafe names, and decompression
bombs. It ignores the members' modes, owners and times.
"""
