// Child: what must not happen in the test's own process happens in a child of it.
#pragma once

#include "test.h"

#include <errno.h>
#include <string>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace test {

struct Ended {
    int status = 0;    // as of waitpid()
    std::string said;  // on standard error

    bool well() const { return status == 0; }
    int signal() const { return WIFSIGNALED(status) ? WTERMSIG(status) : 0; }
    int code() const { return WIFEXITED(status) ? WEXITSTATUS(status) : -1; }
    bool mentions(const std::string& words) const { return said.find(words) != std::string::npos; }
};

inline int status_of(pid_t child) {
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    return status;
}

// Runs body in a child. It ends well if body returns without a failed check.
template <class Body> Ended in_child(const Body& body) {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    fflush(nullptr);
    pid_t child = fork();
    if (child < 0) skip("no fork here");
    if (child == 0) {
        rlimit no_core{};
        setrlimit(RLIMIT_CORE, &no_core);
        dup2(ends[1], 2);
        close(ends[0]);
        close(ends[1]);
        failures = 0;
        body();
        fflush(nullptr);
        _exit(failures != 0);
    }
    close(ends[1]);
    Ended ended;
    char some[4096];
    for (ssize_t got; (got = read(ends[0], some, sizeof some)) != 0;) {
        if (got > 0) ended.said.append(some, size_t(got));
        else if (errno != EINTR) break;
    }
    close(ends[0]);
    ended.status = status_of(child);
    return ended;
}

// The same, failing here with what the child said if it does not end well.
template <class Body> void require_in_child(const Body& body) {
    Ended ended = in_child(body);
    if (!ended.well()) fprintf(stderr, "the child said:\n%s\n", ended.said.c_str());
    CHECK_EQ(ended.status, 0);
}

}  // namespace test
