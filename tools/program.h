// Program: what each program here needs before it can begin: its options, and its descriptors.
#pragma once

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

namespace program {

enum ExitCode { succeeded = 0, failed = 1, misused = 2 };

// The number that an option was given, or the end of the program.
inline double number(const char* option, const char* text, double least, double most) {
    char* end = nullptr;
    double value = strtod(text, &end);
    if (end != text && *end == '\0' && value >= least && value <= most) return value;
    fprintf(stderr, "--%s takes a number from %.10g to %.10g, not '%s'\n", option, least, most,
            text);
    exit(misused);
}

inline unsigned whole(const char* option, const char* text, double least, double most) {
    double value = number(option, text, least, most);
    if (double(unsigned(value)) == value) return unsigned(value);
    fprintf(stderr, "--%s takes a whole number, not '%s'\n", option, text);
    exit(misused);
}

[[noreturn]] inline void help(const char* usage) {
    fputs(usage, stdout);
    exit(succeeded);
}
[[noreturn]] inline void misuse(const char* usage) {
    fputs(usage, stderr);
    exit(misused);
}

// Standard input, output and error exist from here on. A socket that came to have one of their
// numbers would be taken for it.
inline void hold_standard_descriptors() {
    for (int fd = 0; fd <= 2; ++fd)
        if (fcntl(fd, F_GETFD) < 0) open("/dev/null", O_RDWR);  // the lowest number free
}

// A connection is a descriptor, and most shells allow 1,024 where the system allows many more.
inline void raise_descriptor_limit() {
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace program
