# shellcheck shell=bash
# What the launchers share. Sourced; a launcher takes
#   [--dry-run] VERB [CONFIG [KEY=VALUE]...]
# and is told the rest by variables, which `need` and `: "${NAME:=default}"` list at its top.

DRY=0
if [ "${1:-}" = --dry-run ]; then
    DRY=1
    shift
fi
# shellcheck disable=SC2034 # the launchers read it
VERB="${1:-help}"
[ $# -eq 0 ] || shift

fail() {
    echo "error: $*" >&2
    exit 2
}

# need NAME WHAT: the variable NAME must be set.
need() {
    [ -n "${!1:-}" ] || fail "set $1, $2"
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
    printf '%q ' jaxvl "$COMMAND" "$@" "run.dir=$RUN_DIR" run.resume=true
}
