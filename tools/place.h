// Place: where one of the servers here listens, as its options say.
#pragma once

#include "program.h"

#include <copse/copse.h>

struct Place {
    const char* program;
    const char* address = "127.0.0.1";
    uint16_t port = 0;
    copse::ListenOptions listen{};

    // Listens, and says where on a line of its own: who connects from then on is at worst kept waiting.
    copse::Result<copse::Listener> open() const {
        copse::Result<copse::Listener> listener = copse::bind(address, port, listen);
        if (!listener) return listener;
        printf("listening on %s\n", listener->address()->format().c_str());
        fflush(stdout);
        return listener;
    }

    // Says what went wrong there; the program's exit code.
    int fail(copse::Error error) const {
        fprintf(stderr, "%s: %s port %d: %s\n", program, address, int(port), error.message());
        return program::failed;
    }
};
