// Sending: into the buffer, at the end of the turn to the kernel, and what happens when it refuses.
#include "net/socket.h"

#include <string.h>

namespace copse {

namespace {

// Pieces of one vectored write: the buffer and what the caller still has.
constexpr size_t most_pieces = 16;

size_t total(const std::string_view* pieces, size_t count) {
    size_t sum = 0;
    for (size_t i = 0; i < count; ++i) sum += pieces[i].size();
    return sum;
}

}  // namespace

// An earlier deferred write's error, told once to somebody who did not cause it.
Error Socket::take_error() {
    broken_untold_ = false;
    return broken_;
}

// What a call would be told for which the buffer may do.
Error Socket::sendable() {
    if (Error error = usable()) return error;
    if (broken_) return take_error();
    if (send_ended_) return Error::closed;
    return sending_ ? Error::busy : Error::none;
}

// Whether the buffer has room for so many more bytes, below the mark.
inline bool Socket::takes(size_t size) {
    bool fits = out_.size() + size <= send_limit_ && !loop().oddly();
    return fits && out_.make_room(net_->pool(), size);
}

inline void Socket::buffer(std::string_view bytes) {
    memcpy(out_.room(), bytes.data(), bytes.size());
    out_.grew(bytes.size());
}

inline void Socket::queue_to_send(size_t more) {
    loop().count_unsent(ptrdiff_t(more));
    loop().queue(*this);
}

// Flattened as receive_available() is.
[[gnu::flatten]] Result<size_t> Socket::send(std::string_view data) {
    if (Error error = sendable()) return {0, error};
    if (data.empty()) return {0, {}};
    if (!takes(data.size())) return send_through(&data, 1);
    buffer(data);
    queue_to_send(data.size());
    return {data.size(), {}};
}

Result<size_t> Socket::send(const std::string_view* pieces, size_t count) {
    if (Error error = sendable()) return {0, error};
    size_t size = total(pieces, count);
    if (!size) return {0, {}};
    if (!takes(size)) return send_through(pieces, count);
    for (size_t i = 0; i < count; ++i)
        if (!pieces[i].empty()) buffer(pieces[i]);
    queue_to_send(size);
    return {size, {}};
}

// Past the mark: what is buffered and the caller's bytes go to the kernel together, and the thread
// parks until the rest fits below the mark.
[[gnu::noinline]] Result<size_t> Socket::send_through(const std::string_view* pieces, size_t count) {
    if (loop().running_thread())
        if (Error error = loop().admit()) return {0, error};
    size_t size = total(pieces, count);
    size_t given = 0;  // of the caller's bytes
    CallDeadline deadline{send_timeout_};
    Hold hold{*this};
    Within mark{sending_};
    for (;;) {
        if (state_ != State::open) return {given, Error::closed};
        if (broken_) return {given, take_error()};
        if (writable()) {
            size_t buffered = out_.size();
            ssize_t wrote = write(pieces, count, given);
            if (wrote > 0 && size_t(wrote) > buffered) given += size_t(wrote) - buffered;
            loop().pace();
            if (broken_ || state_ != State::open) continue;
        }
        size_t rest = size - given;
        if (rest == 0) return {given, {}};
        if (out_.size() + rest <= send_limit_ && out_.make_room(net_->pool(), rest)) break;
        if (writable()) continue;
        Error error = loop().admit();
        if (!error) error = wait_ready(Direction::write, "send", deadline);
        if (error && !broken_) return {given, error};
    }
    size_t skip = given;
    for (size_t i = 0; i < count; ++i) {
        std::string_view piece = pieces[i];
        size_t skipped = skip < piece.size() ? skip : piece.size();
        skip -= skipped;
        out_.append(net_->pool(), part(piece, skipped, piece.size() - skipped));
    }
    queue_to_send(size - given);
    return {size, {}};
}

// One vectored write of the buffer and of what follows the first `skip` bytes of the pieces.
// Returns what the kernel took, 0 when it takes nothing now; an error breaks the stream off.
ssize_t Socket::write(const std::string_view* pieces, size_t count, size_t skip) {
    iovec parts[most_pieces];
    int used = 0;
    size_t offered = out_.size();
    if (offered) parts[used++] = {out_.data(), offered};
    for (size_t i = 0; i < count && used < int(most_pieces); ++i) {
        std::string_view piece = pieces[i];
        size_t skipped = skip < piece.size() ? skip : piece.size();
        skip -= skipped;
        if (skipped == piece.size()) continue;
        parts[used++] = {const_cast<char*>(piece.data()) + skipped, piece.size() - skipped};
        offered += piece.size() - skipped;
    }
    if (offered == 0) return 0;
    if (system().choose && offered > 1) {
        size_t first = parts[0].iov_len;
        if (size_t kept = system().choose(system(), Choice::bytes, uint32_t(first))) {
            offered = parts[0].iov_len = first - kept;
            used = 1;
        }
    }
    ssize_t wrote = system().send(system(), fd_, parts, used);
    if (wrote < 0 && wrote != -EAGAIN && wrote != -EWOULDBLOCK) {
        break_off(Error::from_errno(int(-wrote)));
        return wrote;
    }
    if (wrote < 0) wrote = 0;
    if (size_t(wrote) < offered) loop().exhausted(*watch_, PollEvent::writable);
    took(size_t(wrote));
    return wrote;
}

// The kernel has these bytes: the buffer's first.
void Socket::took(size_t bytes) {
    sent_ += bytes;
    size_t buffered = bytes < out_.size() ? bytes : out_.size();
    out_.take(buffered);
    loop().count_unsent(-ptrdiff_t(buffered));
    watch_->on_writable = out_.empty() ? nullptr : static_cast<Drainable*>(this);
    if (!out_.empty()) return;
    out_.give_back(net_->pool());
    loop().fire_all(flushers_);
    if (send_ended_) end_sending();
}

// Nothing can be sent any more: what is buffered is lost, and counted.
[[gnu::noinline]] void Socket::break_off(Error error) {
    broken_ = error;
    broken_untold_ = true;
    lose_unsent();
    if (watch_) watch_->on_writable = nullptr;
    loop().fire_all(flushers_);
}

void Socket::lose_unsent() {
    loop().count_lost(out_.size());
    loop().count_unsent(-ptrdiff_t(out_.size()));
    out_.take(out_.size());
    out_.give_back(net_->pool());
}

// At the end of the turn, on the loop's stack. Where the kernel takes no more, the watch queues the
// socket again as soon as it will.
[[gnu::flatten]] void Socket::drain_out() {
    while (!out_.empty() && writable())
        if (write(nullptr, 0, 0) < 0) return;
    if (!out_.empty()) watch_->on_writable = this;
}

Error Socket::flush() {
    if (Error error = begin_call()) return error;
    Hold hold{*this};
    CallDeadline deadline{send_timeout_};
    for (Error woken;;) {
        if (state_ != State::open) return Error::closed;
        drain_out();
        if (broken_) return take_error();
        if (out_.empty()) return Error::none;
        if (woken) return woken;
        Waiter waiter{loop().running_thread()};
        flushers_.append(waiter);
        woken = loop().park({"flush", deadline.at(loop())}, &waiter);
    }
}

// After the last byte, our end of the stream, if that was asked for.
void Socket::end_sending() {
    if (!send_ended_ || end_sent_ || !out_.empty() || broken_) return;
    end_sent_ = true;
    system().shutdown(system(), fd_, SHUT_WR);
}

Error Socket::shutdown(How how) {
    if (Error error = usable()) return error;
    if (how != How::receive) {
        send_ended_ = true;
        drain_out();
        end_sending();
    }
    if (how != How::send) {
        int failed = system().shutdown(system(), fd_, SHUT_RD);
        if (failed && how == How::receive) return Error::from_errno(-failed);
    }
    return Error::none;
}

}  // namespace copse
