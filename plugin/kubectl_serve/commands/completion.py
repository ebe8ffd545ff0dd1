"""``kubectl serve completion``: how to enable completion."""

from argparse import Namespace

from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams

_OWN_SHELLS = {
    "bash": """\
_kubectl_serve() {
    local line typed="${COMP_WORDS[COMP_CWORD]}"
    COMPREPLY=()
    while IFS= read -r line; do
        line="${line%%$'\\t'*}"
        # compgen -W would expand what it is given: a candidate is only ever a value.
        [[ $line == :* || $line != "$typed"* ]] || COMPREPLY+=("$line")
    done < <(kubectl_complete-serve "${COMP_WORDS[@]:1:COMP_CWORD-1}" "$typed" 2>/dev/null)
}
complete -F _kubectl_serve kubectl-serve
""",
    "zsh": """\
#compdef kubectl-serve
_kubectl_serve() {
    local -a found
    local ask='s/:/\\\\:/g; s/\\t/:/; $d'
    found=(${(f)"$(kubectl_complete-serve "${(@)words[2,CURRENT]}" 2>/dev/null | sed -e "$ask")"})
    _describe 'kubectl-serve' found
}
compdef _kubectl_serve kubectl-serve
""",
    "fish": """\
set -l ask 'kubectl_complete-serve (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null | string match -v ":*"'
complete -c kubectl-serve -f -a "($ask)"
""",
}

_HOW = """\
kubectl completes `kubectl serve` by itself: it asks the program kubectl_complete-serve, which is installed beside
kubectl-serve. All it needs is kubectl's own completion:

  bash: source <(kubectl completion bash)
  zsh:  source <(kubectl completion zsh)
  fish: kubectl completion fish | source

For the command under its own name, kubectl-serve:

  bash: source <(kubectl-serve completion bash)
  zsh:  source <(kubectl-serve completion zsh)
  fish: kubectl-serve completion fish | source
"""


def configure(parser: options.Parser) -> None:
    parser.add_argument("shell", metavar="SHELL", nargs="?", choices=[*_OWN_SHELLS], help="bash, zsh or fish")


def run(args: Namespace, streams: Streams) -> int:
    streams.stdout.write(_OWN_SHELLS[args.shell] if args.shell else _HOW)
    return 0
