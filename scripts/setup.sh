# Sourced by the other scripts: makes .venv in the checkout and installs jaxvl in it.
#   . scripts/setup.sh          what training needs
#   . scripts/setup.sh test     what the tests need too
# PYTHON chooses the interpreter (3.11 or newer), VENV the folder.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV="${VENV:-.venv}"
EXTRA="${1:-}"
if [ ! -x "$VENV/bin/python" ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: Python 3.11 or newer is needed; set PYTHON to one" >&2
        exit 2
    }
    "${PYTHON:-python3}" -m venv "$VENV"
fi
# Installing takes most of a minute: only when what is wanted has changed since the last time.
WANTED="$(cat requirements.txt pyproject.toml)$EXTRA"
if [ "$(cat "$VENV/jaxvl-installed" 2>/dev/null)" != "$WANTED" ]; then
    echo "installing jaxvl into $VENV"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
        --editable ".${EXTRA:+[$EXTRA]}"
    printf '%s' "$WANTED" >"$VENV/jaxvl-installed"
fi
