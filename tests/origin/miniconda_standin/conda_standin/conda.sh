# shellcheck shell=bash
# The shell's side of conda: what changes this shell is printed by the program and run here.
__conda_change() {
    local commands
    commands="$(PS1="${PS1:-}" "$CONDA_EXE" shell.posix "$@")" || return
    eval "$commands"
    hash -r
}

conda() {
    case "${1-}" in
        activate | deactivate) __conda_change "$@" ;;
        *) "$CONDA_EXE" "$@" ;;
    esac
}

if [ -z "${CONDA_SHLVL+x}" ]; then
    export CONDA_SHLVL=0
    # shellcheck disable=SC2123  # the search path it is
    PATH="$(dirname "$(dirname "$CONDA_EXE")")/condabin${PATH:+:$PATH}"
    export PATH
    PS1="${PS1-}"
fi
