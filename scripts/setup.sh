# shellcheck shell=bash
# Sourced by the other scripts, or run: makes .venv in the checkout and installs jaxvl in it.
#   bash scripts/setup.sh          what training needs
#   bash scripts/setup.sh test     what the tests need too; so tpu, cuda, plan-gpu, judge, serve, ray, track, notebook,
#                                  docs, bench
# PYTHON chooses the interpreter (3.11 or newer), VENV the folder.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
VENV="${VENV:-.venv}"
case "${1:-}" in
"" | tpu | cuda | plan-gpu | judge | serve | ray | track | notebook | test | docs | bench) EXTRA="${1:-}" ;;
*)
    # A script that sources this without arguments hands over its own, which are no extra.
    if [ "${BASH_SOURCE[0]}" = "$0" ]; then
        echo "error: no extra $1; expected one of tpu, cuda, plan-gpu, judge, serve, ray, track, notebook, test, docs, bench" >&2
        exit 2
    fi
    EXTRA=""
    ;;
esac
if [ ! -x "$VENV/bin/python" ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: Python 3.11 or newer is needed; set PYTHON to one" >&2
        exit 2
    }
    "${PYTHON:-python3}" -m venv "$VENV"
fi
# Installing takes most of a minute: only when what is wanted has changed since the last time.
TESTED="constraints/py$("$VENV/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt"
WANTED="$(cat requirements.txt pyproject.toml "$TESTED" 2>/dev/null || true)$EXTRA"
if [ "$(cat "$VENV/jaxvl-installed" 2>/dev/null)" != "$WANTED" ]; then
    echo "installing jaxvl into $VENV"
    if [ ! -f "$TESTED" ]; then
        echo "note: no $TESTED: packages are installed in versions that no test has seen together" >&2
        TESTED=""
    fi
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
        ${TESTED:+--constraint "$TESTED"} --editable ".${EXTRA:+[$EXTRA]}" &&
        printf '%s' "$WANTED" >"$VENV/jaxvl-installed"
fi
