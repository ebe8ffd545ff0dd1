"""Take CUDA out of an installed PyTorch: ``without_cuda.py SITE_PACKAGES``.

PyPI has PyTorch for Linux with CUDA only: 2.5 GB of libraries that are not used on a machine without a GPU. Small ones
take their place here. They have every name that the rest of PyTorch is linked with, and do nothing: a function returns
zero, which is no device, a constructor makes an object whose methods do so too, a type is one of its own.
"""

import subprocess
import sys
from pathlib import Path

KEPT = ("libtorch_cpu.so", "libtorch_python.so", "libtorch.so", "libshm.so", "libtorch_global_deps.so")
SYSTEM = Path("/usr/lib/x86_64-linux-gnu")
BESIDE = ("libc10.so", "libgomp.so.1", str(SYSTEM / "libstdc++.so.6"), str(SYSTEM / "libc.so.6"))
"""Where else the kept ones find their names."""
TORCH = ("libtorch_cuda.so", "libtorch_cuda_linalg.so", "libtorch_nvshmem.so", "libcaffe2_nvrtc.so", "libc10_cuda.so")
VENDOR = {"libnccl.so.2": "nccl", "libcufile.so.0": "cuFile"}
"""Prefixes of libraries whose names have no version."""

TEXT = """
.text
{functions}
nothing:
    xor %eax, %eax
    ret
{references}
    lea room(%rip), %rax
    ret
{constructors}
    lea methods(%rip), %rax
    mov %rax, (%rdi)
    ret
.bss
.balign 16
room: .zero 4096
.data
.balign 16
type: .quad _ZTVN10__cxxabiv117__class_type_infoE + 16, name
name: .asciz "7WithoutCUDA"
.balign 16
.quad 0, type
methods: .rept 64
    .quad nothing
.endr
"""
REFERENCES = {"_ZN4c10d15get_gil_checkerEv"}
"""Functions that return a place to write to, which PyTorch does as it is loaded."""
TYPE = """
.globl {name}
.balign 16
{name}: .quad _ZTVN10__cxxabiv117__class_type_infoE + 16, name{name}
name{name}: .asciz "{short}"
"""
DATA = """
.globl {name}
.balign 16
{name}: .zero 256
"""


def names(libraries: tuple[str, ...], which: str, folder: Path) -> dict[str, str]:
    """The dynamic symbols, each with its version or nothing."""
    command = ["nm", "--dynamic", f"--{which}-only", *libraries]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout.splitlines()
    symbols = [line.split()[-1].partition("@") for line in lines if " " in line]
    return {name: version.lstrip("@") for name, _, version in symbols}


def write(library: Path, found: set[str], version: str = "") -> None:
    types = {name for name in found if name.startswith("_ZTI")}
    data = {name for name in found if name.startswith(("_ZTV", "_ZTT")) or name.endswith("9allocatorE")}
    constructors = {name for name in found - data - types if "C1E" in name or "C2E" in name}

    def labels(wanted: set[str]) -> str:
        return "\n".join(f".globl {name}\n.type {name}, @function\n{name}:" for name in sorted(wanted))

    references = found & REFERENCES
    functions = found - types - data - constructors - references
    text = TEXT.format(functions=labels(functions), references=labels(references), constructors=labels(constructors))
    text += "".join(TYPE.format(name=name, short=name.removeprefix("_ZTI")) for name in sorted(types))
    text += "".join(DATA.format(name=name) for name in sorted(data))
    library.unlink(missing_ok=True)
    script = library.with_suffix(".map")
    script.write_text(f"{version} {{ *; }};\n")
    command = ["gcc", "-shared", "-nostartfiles", "-x", "assembler", "-", "-o", str(library)]
    linker = [f"-Wl,-soname,{library.name}", *([f"-Wl,--version-script={script}"] if version else [])]
    subprocess.run([*command, *linker, "-l:libstdc++.so.6"], input=text, text=True, check=True)
    script.unlink()


def main(folder: Path) -> None:
    undefined = names(KEPT, "undefined", folder)
    defined = names((*KEPT, *BESIDE), "defined", folder)
    plain = {name for name, version in undefined.items() if not version} - defined.keys()
    for version in sorted(set(undefined.values())):
        if version.startswith("libcu"):  # the library's own name
            write(folder / version, {name for name, of in undefined.items() if of == version}, version)
    for library, prefix in VENDOR.items():
        write(folder / library, {name for name in plain if name.startswith(prefix)})
    for library in TORCH:
        (folder / library).unlink(missing_ok=True)
    others = (*VENDOR.values(), "Py", "_Py", "_ITM_", "__gmon_start__")
    write(folder / TORCH[0], {name for name in plain if not name.startswith(others)})
    write(folder / TORCH[-1], set())


if __name__ == "__main__":
    main(Path(sys.argv[1]) / "torch/lib")
