#!/bin/sh
# Reads the notes of a port's object file.
#
#   abi_notes.sh <readelf> <objdump> <property> <object>
#
# The stack stays free of code; the property (a landing pad at every function) is claimed and true;
# a shadow stack and signed return addresses are not claimed; nothing is exported and nothing is
# asked of others; one function, the trampoline, is described as having no caller.
readelf=${1:-readelf}
objdump=${2:-objdump}
property=$3
object=$4
failures=0

for tool in "$readelf" "$objdump"; do
    if ! command -v "$tool" >/dev/null; then
        echo "skipped: there is no $tool here" >&2
        exit 77
    fi
done
if ! [ -f "$object" ]; then
    echo "failed: there is no $object" >&2
    exit 1
fi

# Reads its input to the end: whoever writes it is not cut off.
says() {
    grep "$@" >/dev/null
}

fail() {
    echo "failed: $*" >&2
    failures=$((failures + 1))
}

sections=$("$readelf" -SW "$object" | sed 's/^ *\[ *[0-9]*\] //')
notes=$("$readelf" -nW "$object")
symbols=$("$readelf" -sW "$object")

stack=$(echo "$sections" | grep '^\.note\.GNU-stack ')
[ -n "$stack" ] || fail "no .note.GNU-stack: the program's stack would be executable"
case $stack in *X*) fail "the stack is marked as executable" ;; esac

echo "$notes" | says -i "$property *$" ||
    fail "the property '$property' is not claimed, or not alone"
for lie in SHSTK PAC; do
    ! echo "$notes" | says "$lie" || fail "$lie is claimed"
done

echo "$symbols" | says 'FUNC *GLOBAL *HIDDEN .* copse_switch$' || fail "no hidden copse_switch"
! echo "$symbols" | says 'GLOBAL *DEFAULT' || fail "a symbol is exported or undefined"

if frames=$("$readelf" --debug-dump=frames "$object" 2>/dev/null); then
    [ "$(echo "$frames" | grep -c DW_CFA_undefined)" -eq 1 ] || fail "not one outermost frame"
fi

# The first instruction of every function that can be called.
"$objdump" -d "$object" | awk '
    /^[0-9a-f]+ <copse_.*>:$/ { name = $2; next }
    name != "" {
        if (name !~ /trampoline/ && !/endbr64|bti[ \t]+c|hint[ \t]+#(0x22|34)/) {
            print "failed: no landing pad at " name; bad = 1
        }
        ++seen; name = ""
    }
    END { if (seen < 5) { print "failed: " seen + 0 " functions, expected 5"; bad = 1 } exit bad }
' >&2 || failures=$((failures + 1))

[ "$failures" -eq 0 ]
