#!/usr/bin/env bash
# Tools: the programs of tools/ do what they say, to each other and on a command line.
#
#   tools_test.sh <sentence> <scratch> <copse-echo> <copse-load> <emulator's words> ...
set -euo pipefail
sentence=$1 scratch=$2
echo_program=("${@:5}" "$3")
load_program=("${@:5}" "$4")

fail() { echo "failed: $*" >&2; exit 1; }

# serve <standard input> <words of copse-echo ...>: starts it and learns the port; `said` is what it
# goes on to say.
server=
serve() {
    mkfifo "$scratch/said"
    if [ "$1" = closed ]; then "${echo_program[@]}" "${@:2}" <&- >"$scratch/said" &
    else "${echo_program[@]}" "${@:2}" <"$1" >"$scratch/said" & fi
    server=$!
    exec {said}<"$scratch/said"
    rm "$scratch/said"
    read -r -t 30 -u "$said" line || fail "copse-echo did not start"
    port=${line##*:}
}
stop() { kill "$server"; wait "$server" 2>/dev/null || true; }

# hears <descriptor> <pattern>: the next line from there matches.
hears() {
    read -r -t 30 -u "$1" line || fail "nothing came, instead of $2"
    [[ $line =~ ^$2$ ]] || fail "'$line' came instead of $2"
}
hears_nothing() { ! read -r -t 0.3 -u "$1" line || fail "'$line' came instead of nothing"; }
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true' EXIT

load() { "${load_program[@]}" --port "$port" "$@"; }
figure() { sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" <<<"$result"; }

# exits_with <code> <command ...>: and leaves what it said on standard error in `complaint`.
exits_with() {
    local code=0
    complaint=$("${@:2}" 2>&1 >/dev/null </dev/null) || code=$?
    [ "$code" -eq "$1" ] || fail "exit code $code, not $1: ${*:2}"
}

test_every_byte_comes_back() {
    serve /dev/null --port 0
    result=$(load --connections 200 --seconds 1 --json)
    [ "$(figure bytes_wrong)" -eq 0 ] || fail "$result"
    [ "$(figure connections_failed)" -eq 0 ] || fail "$result"
    [ "$(figure requests)" -gt 200 ] || fail "$result"
    # The connections' first messages are compared, but not counted.
    [ "$(figure bytes_verified)" -eq $((($(figure requests) + 200) * 64)) ] || fail "$result"
    load --connections 3 --size 1000000 --pipeline 2 --seconds 0.5
    load --connections 20 --size 7 --pipeline 100 --seconds 0.5
}

# Random bytes are no lines: some come back changed, others never.
test_a_wrong_byte_is_noticed() {
    serve /dev/null --lines
    local code=0
    result=$(load --connections 4 --size 60000 --seconds 0.2 --json 2>"$scratch/complaints") ||
        code=$?
    [ "$code" -eq 1 ] || fail "exit code $code"
    [ "$(figure bytes_wrong)" -gt 0 ] || fail "no byte was wrong"
    grep -q 'connection [0-9]*: wrong bytes' "$scratch/complaints"
}

test_a_connection_that_cannot_be_made_is_noticed() {
    serve /dev/null
    stop
    exits_with 1 load --connections 3 --seconds 0.1
    [[ $complaint == *'connection refused'* ]] || fail "it said: $complaint"
}

test_lines_come_back_one_by_one() {
    serve /dev/null --lines
    exec {peer}<>"/dev/tcp/127.0.0.1/$port"
    printf 'one\r\ntwo\nthr' >&"$peer"
    hears "$peer" one
    hears "$peer" two
    hears_nothing "$peer"
    printf 'ee\n' >&"$peer"
    hears "$peer" three
}

test_a_silent_connection_is_closed_in_time() {
    serve /dev/null --timeout 0.2
    exec {peer}<>"/dev/tcp/127.0.0.1/$port"
    local code=0
    read -r -t 30 -u "$peer" line || code=$?
    [ "$code" -eq 1 ] || fail "the connection was not closed: $code"  # else bash reports a timeout
}

test_connections_beyond_the_limit_wait() {
    serve /dev/null --max-connections 1
    exec {first}<>"/dev/tcp/127.0.0.1/$port" {second}<>"/dev/tcp/127.0.0.1/$port"
    echo one >&"$first"
    hears "$first" one
    echo two >&"$second"
    hears_nothing "$second"
    exec {first}>&-
    hears "$second" two
}

test_a_status_line_answers_each_line_typed() {
    mkfifo "$scratch/typed"
    exec {typed}<>"$scratch/typed"
    serve "$scratch/typed" --port 0
    load --connections 1 --seconds 0.1
    echo >&"$typed"
    hears "$said" '[01] connections, [1-9][0-9]* echoes, .*'
    printf '\n\n' >&"$typed"
    hears "$said" '[01] connections, .*'
    hears "$said" '[01] connections, .*'
}

test_it_serves_without_standard_input() {
    for input in closed "$scratch/file"; do
        : >"$scratch/file"
        serve "$input"
        load --connections 2 --seconds 0.1
        stop
    done
    mkfifo "$scratch/ended"
    : >"$scratch/ended" &
    serve "$scratch/ended"
    load --connections 2 --seconds 0.1
}

test_a_port_in_use_is_named() {
    serve /dev/null
    exits_with 1 "${echo_program[@]}" --port "$port"
    [[ $complaint == *"$port: address already in use" ]] || fail "it said: $complaint"
}

test_wrong_words_are_explained() {
    exits_with 2 "${echo_program[@]}" --port 70000
    exits_with 2 "${echo_program[@]}" --port http
    exits_with 2 "${echo_program[@]}" --timeout 0
    exits_with 2 "${echo_program[@]}" --unknown
    exits_with 2 "${echo_program[@]}" word
    exits_with 2 "${load_program[@]}"
    exits_with 2 "${load_program[@]}" --port 1 --connections 0
    exits_with 2 "${load_program[@]}" --port 1 --size 1.5
    [ -n "$complaint" ] || fail "it said nothing"
    exits_with 0 "${echo_program[@]}" --help
    exits_with 0 "${load_program[@]}" --help
}

rm -rf "$scratch" && mkdir -p "$scratch"
"test_$sentence"
