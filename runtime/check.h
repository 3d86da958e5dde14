// check: a broken invariant ends the program, in every build, saying where and what was expected.
//
// Only for what the program itself did wrong. What a peer, the kernel or an exhausted machine can
// cause is an Error.
#pragma once

#include "runtime/system.h"

namespace copse {

inline void check(bool held, const char* expected, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
    if (!held) [[unlikely]] fatal(file, line, expected);
}

}  // namespace copse
