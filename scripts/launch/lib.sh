# shellcheck shell=bash
# What the launchers share. Sourced; a launcher takes
#   [--dry-run | --yes] VERB [CONFIG [KEY=VALUE]...]
# and is told the rest by variables, which `need` and `: "${NAME:=default}"` list at its top.

# Without --yes the commands are shown and none is run.
DRY=0 YES=0
while [[ "${1:-}" == --* ]]; do
    case "$1" in
    --dry-run) DRY=1 ;;
    --yes) YES=1 ;;
    --help) break ;;
    *)
        echo "error: no option $1; expected --dry-run or --yes" >&2
        exit 2
        ;;
    esac
    shift
done
CHECKOUT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
# shellcheck disable=SC2034 # the launchers read it
VERB="${1:-help}"
[ $# -eq 0 ] || shift
case "$VERB" in
help | -h | --help) YES=1 ;;
esac
if [ "$DRY$YES" = 00 ]; then
    DRY=1
    trap '[ $? -ne 0 ] || echo "nothing was done; to go on: $0 --yes $VERB .." >&2' EXIT
fi

fail() {
    echo "error: $*" >&2
    exit 2
}

# need NAME WHAT: the variable NAME must be set.
need() {
    [ -n "${!1:-}" ] || fail "set $1, $2"
}

# whole NAME..: the variables must be whole numbers of 1 or more.
whole() {
    local variable
    for variable; do
        [[ "${!variable}" =~ ^[1-9][0-9]*$ ]] || fail "$variable is ${!variable}; expected a whole number of 1 or more"
    done
}

# Prints a command, and runs it unless this is a dry run.
run() {
    printf '+'
    printf ' %q' "$@"
    printf '\n'
    [ "$DRY" = 1 ] || "$@"
}

# feed TEXT COMMAND...: prints both, and runs the command on the text unless this is a dry run.
feed() {
    local text="$1"
    shift
    printf '%s\n' "$text"
    printf '| '
    printf ' %q' "$@"
    printf '\n'
    [ "$DRY" = 1 ] || "$@" <<<"$text"
}

# The comment at the top of the launcher, for people.
usage() {
    sed -n '2,/^[^#]/{ /^#/s/^# \{0,1\}//p; }' "$0"
}

# The words of a shell command that trains on CONFIG with the overrides in "$@", by COMMAND (grpo or
# sft). A run that was stopped goes on; one that has not begun begins.
train_command() {
    [ $# -gt 0 ] || fail "train needs a config: $0 train CONFIG [KEY=VALUE]..."
    case "${COMMAND:=grpo}" in
    grpo | sft) ;;
    *) fail "COMMAND is $COMMAND; expected grpo or sft" ;;
    esac
    check_config "$@"
    printf '%q ' jaxvl "$COMMAND" "$@" "run.dir=$RUN_DIR" run.resume=true
}

# check_config CONFIG [KEY=VALUE]...: what this machine can know to be wrong is an error here.
check_config() {
    local python="${VENV:-.venv}/bin/python" kind=Config
    [ "$COMMAND" = grpo ] || kind=SFTConfig
    [ -f "$1" ] || [ -f "$CHECKOUT/$1" ] || fail "no config file at $1"
    [ -x "$python" ] || python="$CHECKOUT/$python"
    if [ ! -x "$python" ]; then
        echo "note: no $python here, so the config is not read; bash scripts/setup.sh makes one" >&2
        return
    fi
    (
        [ -f "$1" ] || cd "$CHECKOUT"
        PYTHONPATH="$CHECKOUT" "$python" - "$kind" "$@" >/dev/null <<'END'
import sys
from jaxvl import UserError, config
try:
    config.load(sys.argv[2], sys.argv[3:], getattr(config, sys.argv[1]))
except UserError as error:
    sys.exit(f"error: {error}")
END
    ) || exit 2
}
