"""Linux capabilities: what the driver keeps, and how a download gives up all. Source: capabilities(7), prctl(2)."""

import ctypes
import os
import signal

KEPT = {
    "CHOWN": 0,  # take over downloaded files
    "DAC_OVERRIDE": 1,  # read and remove what a download left
    "FOWNER": 3,  # change the mode of downloaded files
    "KILL": 5,  # end downloads
    "SETGID": 6,  # start downloads as another group
    "SETUID": 7,  # start downloads as another user
    "SYS_ADMIN": 21,  # mount and unmount
}
"""The capabilities that the driver keeps, by name."""
_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def keep_needed() -> None:
    """Give up all capabilities except :data:`KEPT`, for this process and its children. Raises OSError."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        last = int(file.read())
    for number in range(last + 1):
        if number not in KEPT.values():
            _prctl(_PR_CAPBSET_DROP, number)
    mask = sum(1 << number for number in KEPT.values())
    _capset(mask)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def end_with_parent() -> None:
    """End this process when the thread that started it ends. Raises OSError."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def give_up_all() -> None:
    """Give up all capabilities, and the way back to them. Raises OSError."""
    _capset(0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        raise _error("prctl")


def _capset(mask: int) -> None:
    """Set the effective and permitted capabilities to `mask`, and no inheritable ones."""
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    if _libc.capset(ctypes.byref(header), ctypes.byref(data)):
        raise _error("capset")


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
