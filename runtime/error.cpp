#include <copse/error.h>

#include <string.h>

namespace copse {

const char* Error::message() const {
    if (*this == none) return "no error";
    if (*this == closed) return "closed";
    if (*this == timeout) return "timeout";
    if (*this == canceled) return "cancelled";
    if (*this == busy) return "Operation already in progress";
    if (*this == oversized) return "oversized";
    if (*this == deadlock) return "deadlock";
    if (*this == not_a_thread) return "not within a thread of the loop";
    if (*this == already_running) return "already running";
    if (*this == destroyed) return "destroyed";
    if (*this == too_many) return "too many";
    if (*this == not_owner) return "cannot release what is not owned";
    if (*this == not_found) return "host not found";
    if (*this == forked) return "the loop belongs to the parent process";
    if (*this == unsupported) return "the descriptor cannot be polled";
    switch (code_) {
    case EADDRINUSE: return "address already in use";
    case EISCONN: return "already connected";
    case EACCES: return "permission denied";
    case ECONNREFUSED: return "connection refused";
    default: return strerror(code_);
    }
}

}  // namespace copse
