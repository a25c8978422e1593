#!/bin/sh
# Starts Claude Code in a terminal pane, with a conversation that a snapshot of the session can name. Whatever happens to
# claude, the pane stays.
#
# Kept by rosterd where config.toml says so: a copy in a home is replaced when this file changes.
set -u

cd "$HOME/code" 2>/dev/null || cd "$HOME" || :

# Fresh clones. A remote that hangs costs ten seconds and no session; Ctrl-C ends the wait.
trap : INT
if command -v rosterctl >/dev/null 2>&1; then
    timeout --foreground --kill-after=1 10 rosterctl freshen || :
fi

# Where the installer of Claude Code puts it.
command -v claude >/dev/null 2>&1 || PATH="$HOME/.local/bin:$PATH"

# The session's name, unless it is one that is never saved.
name=
if [ -n "${TMUX_PANE:-}" ]; then
    name=$(tmux display-message -p -t "$TMUX_PANE" '#{session_name}' 2>/dev/null) || name=
    case $name in *[!A-Za-z0-9_-]*) name= ;; esac
    [ ${#name} -le 32 ] || name=
fi

# One conversation for this pane, unless the caller names one.
id=
case " $* " in
    *" --resume "* | *" -r "* | *" --continue "* | *" -c "* | *" --session-id "*) ;;
    *)
        read -r id </proc/sys/kernel/random/uuid || id=
        [ -z "$name" ] || set -- --name "$name" "$@"
        [ -z "$id" ] || set -- --session-id "$id" "$@"
        ;;
esac

if command -v claude >/dev/null 2>&1; then
    claude "$@"
    status=$?
    [ $status != 0 ] || exit 0
    printf '\nclaude ended with status %s.' "$status"
    [ -z "$id" ] || printf ' Its conversation goes on with: claude --resume %s' "$id"
    printf '\n'
else
    printf 'There is no claude on this machine, or not where %s finds it; ask your admin. This is a shell.\n' "$(id -un)"
fi
trap - INT
# Without any of its files zsh begins with a dialogue over the whole screen, and what was just said is gone.
case ${SHELL:-} in
    */zsh)
        # Where its files are, /etc/zsh/zshenv may say, which it reads in any case. Privileged (-p) it asks nothing.
        # shellcheck disable=SC2016 # zsh expands it
        folder=$("$SHELL" -f -c 'print -r -- "${ZDOTDIR:-$HOME}"')
        for file in .zshrc .zshenv .zprofile .zlogin; do
            [ ! -e "$folder/$file" ] || exec "$SHELL" -l
        done
        exec "$SHELL" -l -p
        ;;
esac
exec "${SHELL:-/bin/sh}" -l
