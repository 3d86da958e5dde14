#!/usr/bin/env bash
# Tools: the programs of tools/ do what they say, to each other and on a command line.
#
#   tools_test.sh <sentence> <scratch> <copse-echo> <copse-load> <copse-chat> <copse-sim-demo>
#                 <copse-hello> <emulator's words> ...
set -euo pipefail
sentence=$1 scratch=$2
echo_program=("${@:8}" "$3")
load_program=("${@:8}" "$4")
chat_program=("${@:8}" "$5")
demo_program=("${@:8}" "$6")
hello_program=("${@:8}" "$7")

fail() { echo "failed: $*" >&2; exit 1; }

# serve <standard input> <words of copse-echo ...>: starts it and learns the port; `said` is what it
# goes on to say. serve_chat is the same for copse-chat, serve_hello for copse-hello.
server=
serve_chat() {
    local echo_program=("${chat_program[@]}")
    serve "$@"
}
serve_hello() {
    local echo_program=("${hello_program[@]}")
    serve "$@"
}
serve() {
    mkfifo "$scratch/said"
    if [ "$1" = closed ]; then "${echo_program[@]}" "${@:2}" <&- >"$scratch/said" &
    else "${echo_program[@]}" "${@:2}" <"$1" >"$scratch/said" & fi
    server=$!
    exec {said}<"$scratch/said"
    rm "$scratch/said"
    read -r -t 30 -u "$said" line || fail "it did not start"
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

# join <variable> <name> [room]: a member of the chat; the variable becomes her descriptor.
join() {
    exec {member}<>"/dev/tcp/127.0.0.1/$port"
    printf -v "$1" %s "$member"
    hears "$member" '\* welcome, guest[0-9]+: .*'
    printf '/name %s\n/join %s\n' "$2" "${3-tea}" >&"$member"
    hears "$member" "\\* you are $2"
    hears "$member" "\\* $2 joins ${3-tea}"
}

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

test_members_of_a_room_hear_each_other() {
    serve_chat /dev/null
    join ann ann
    join bob bob
    hears "$ann" '\* bob joins tea'
    join cat cat coffee
    echo 'hello, bob' >&"$ann"
    hears "$ann" 'ann: hello, bob'
    hears "$bob" 'ann: hello, bob'
    printf 'hello, ann\n/who\n' >&"$bob"
    hears "$ann" 'bob: hello, ann'
    hears "$bob" 'bob: hello, ann'
    hears "$bob" '\* in tea: bob, ann'
    hears_nothing "$cat"
    echo /quit >&"$bob"
    hears "$bob" '\* goodbye, bob'
    hears "$ann" '\* bob leaves'
}

test_a_name_in_use_is_refused() {
    serve_chat /dev/null
    join ann ann
    join bob bob coffee
    echo '/name ann' >&"$bob"
    hears "$bob" '\* the name ann is in use'
    exec {ann}>&- {member}>&-
    join ann ann
    echo '/name <b>' >&"$ann"
    hears "$ann" '\* a name is made of letters and digits'
}

# The kernel holds some megabytes for a member who does not read, and only then her queue fills.
test_a_slow_reader_is_dropped_and_nobody_else_waits() {
    serve_chat /dev/null --patience 1
    join slow slow
    join bob bob
    local words gone='^\* slow reads too slowly and is gone$'
    printf -v words '%0500d' 7
    { for ((i = 0; i < 40000; ++i)); do echo "$words"; done >&"$bob"; } 2>/dev/null &
    timeout 30 grep -m 1 -q "$gone" <&"$bob" || fail "the slow member was not dropped"
    { kill $! && wait $!; } 2>/dev/null || true
    join cat cat
    echo hello >&"$cat"
    timeout 30 grep -m 1 -q '^cat: hello$' <&"$cat" || fail "nobody is served any more"
    timeout 30 grep -m 1 -q '^bob: 00' <&"$slow" || fail "the slow member has lost what was there"
}

test_a_line_that_is_too_long_is_heard_by_nobody() {
    serve_chat /dev/null --line-limit 10
    join ann ann
    printf '12345678901\n1234567890\n' >&"$ann"
    hears "$ann" '\* that line was too long, and nobody has heard it'
    hears "$ann" 'ann: 1234567890'
}

test_a_silent_member_is_shown_the_door() {
    serve_chat /dev/null --timeout 0.3
    join ann ann
    hears "$ann" '\* you were silent for too long; goodbye'
    local code=0
    read -r -t 30 -u "$ann" line || code=$?
    [ "$code" -eq 1 ] || fail "the connection was not closed: $code"
}

test_a_browser_is_greeted() {
    serve_hello /dev/null
    exec {peer}<>"/dev/tcp/127.0.0.1/$port"
    printf 'GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' >&"$peer"
    hears "$peer" $'HTTP/1.1 200 OK\r'
    local today
    today=$(LC_ALL=C date -u '+%a, %d %b %Y ')
    hears "$peer" "Date: ($today|.* 00:0)[0-9:]* GMT"$'\r'
    hears "$peer" $'Content-Type: text/plain\r'
    hears "$peer" $'Content-Length: 13\r'
    hears "$peer" $'\r'
    hears "$peer" 'hello, world'
    hears "$peer" $'HTTP/1.1 404 Not Found\r'
    timeout 30 grep -q '^404 Not Found$' <&"$peer" || fail "it did not say so, or did not close"
}

test_a_browser_that_asks_for_nothing_is_left() {
    serve_hello /dev/null --timeout 0.2
    exec {peer}<>"/dev/tcp/127.0.0.1/$port"
    local code=0
    read -r -t 30 -u "$peer" line || code=$?
    [ "$code" -eq 1 ] || fail "the connection was not closed: $code"
}

test_a_seed_tells_the_same_story_each_time() {
    local code=0
    "${demo_program[@]}" >"$scratch/once" || code=$?
    [ "$code" -eq 1 ] || fail "exit code $code: no deposit was lost"
    "${demo_program[@]}" >"$scratch/again" || true
    cmp "$scratch/once" "$scratch/again"
    seed=$(sed -n 's/^seed //p' "$scratch/once")
    "${demo_program[@]}" --seed "$seed" >"$scratch/alone" || true
    cmp <(tail -n +2 "$scratch/once") "$scratch/alone"
    grep -q '^a deposit was lost: .* trace [0-9a-f]\{16\}$' "$scratch/alone"
}

test_the_repaired_bank_loses_no_deposit() {
    "${demo_program[@]}" --fixed --seeds 1000 >"$scratch/fixed"
    grep -q 'a deposit was lost in 0$' "$scratch/fixed"
}

test_a_campaign_finds_the_lost_deposit_and_makes_it_small() {
    cd "$scratch"
    exits_with 1 "${demo_program[@]}" --campaign
    [[ $complaint == *'a deposit was lost'*'COPSE_SEED='*'COPSE_REPLAY='* ]] || fail "$complaint"
    exits_with 1 env COPSE_REPLAY=./sim-demo.replay "${demo_program[@]}" --campaign
    exits_with 0 "${demo_program[@]}" --campaign --fixed
}

test_wrong_words_are_explained() {
    exits_with 2 "${chat_program[@]}" --port 70000
    exits_with 2 "${chat_program[@]}" --backlog 0
    exits_with 0 "${chat_program[@]}" --help
    exits_with 2 "${hello_program[@]}" --port 70000
    exits_with 2 "${hello_program[@]}" --timeout 0
    exits_with 2 "${hello_program[@]}" word
    exits_with 0 "${hello_program[@]}" --help
    exits_with 2 "${demo_program[@]}" --seed none
    exits_with 0 "${demo_program[@]}" --help
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
