// Receiving: how bytes come off the descriptor, and when a pattern is complete.
#include "net/socket.h"

#include <string.h>

namespace copse {

namespace {

// How far a pattern has got: looks at each byte once, however the bytes were cut into segments.
class Framing {
  public:
    Framing(Pattern pattern, size_t prefix, size_t limit)
        : kind_{pattern.kind()}, wanted_{pattern.count()}, scanned_{prefix}, limit_{limit} {}

    // Whether `data` holds a whole one; then length() bytes of it are the result and consumed()
    // bytes are used up.
    bool complete(std::string_view data) {
        if (kind_ == Pattern::Kind::count) return finish(data.size() >= wanted_, wanted_, wanted_);
        if (kind_ == Pattern::Kind::line) {
            size_t end = data.size() <= limit_ ? data.size() : limit_ + 1;
            const char* from = data.data() + scanned_;
            if (end > scanned_) {
                auto* lf = static_cast<const char*>(memchr(from, '\n', end - scanned_));
                scanned_ = end;
                if (lf) {
                    size_t length = size_t(lf - data.data());
                    return finish(true, length, length + 1);
                }
            }
        }
        return false;
    }
    // More bytes than the limit allows, and no end among them.
    bool oversized(std::string_view data) const {
        return kind_ != Pattern::Kind::count && data.size() > limit_;
    }
    size_t limit() const { return limit_; }
    size_t length() const { return length_; }
    size_t consumed() const { return consumed_; }

  private:
    bool finish(bool done, size_t length, size_t consumed) {
        length_ = length;
        consumed_ = consumed;
        return done;
    }

    Pattern::Kind kind_;
    size_t wanted_;
    size_t scanned_;
    size_t limit_;
    size_t length_ = 0;
    size_t consumed_ = 0;
};

// Takes every CR out of a line, in place; what was in front of `from` is the caller's.
std::string_view without_cr(char* line, size_t from, size_t size) {
    auto* cr = static_cast<char*>(size > from ? memchr(line + from, '\r', size - from) : nullptr);
    if (!cr) return {line, size};
    char* out = cr;
    for (char* in = cr; in < line + size; ++in)
        if (*in != '\r') *out++ = *in;
    return {line, size_t(out - line)};
}

}  // namespace

// One read. The direction's bit is cleared when the kernel has no more: at EAGAIN, or when a socket
// gave less than was asked for and the peer has not hung up. (A terminal gives a line at a time.)
ssize_t Socket::receive_into(char* out, size_t size) {
    size_t asked = size;
    if (system().choose && size > 1)
        asked -= system().choose(system(), Choice::bytes, uint32_t(size));
    ssize_t got = system().receive(system(), fd_, out, asked);
    if (got <= 0) {
        if (got == -EAGAIN || got == -EWOULDBLOCK) loop().exhausted(*watch_, PollEvent::readable);
        return got;
    }
    received_ += size_t(got);
    if (size_t(got) < asked && is_socket_ && !(watch_->ready & PollEvent::hangup))
        loop().exhausted(*watch_, PollEvent::readable);
    return got;
}

// What a read that gave nothing means: none, to wait; or the end of the input.
[[gnu::noinline]] Error Socket::failed_receive(ssize_t result) {
    if (result == -EAGAIN || result == -EWOULDBLOCK) return Error::none;
    end_of_input_ = true;
    // The kernel tells of a connection's death once, and the sender may have heard of it first.
    bool died = broken_ && broken_.code() != EPIPE;
    input_error_ = result < 0 ? Error::from_errno(int(-result)) : died ? broken_ : Error::closed;
    return input_error_;
}

// Parks until the direction may be ready, which the caller has found it is not; he has been admitted. A
// call that is past its deadline does not wait again, whatever may still come.
Error Socket::wait_ready(Direction direction, const char* what, CallDeadline& deadline) {
    Error error = Error::none;
    if (deadline.passed(loop())) [[unlikely]] {
        error = loop().admit();
        if (!error) error = Error::timeout;
    } else {
        error = loop().wait_ready(*watch_, direction, {what, deadline.at(loop())});
    }
    return state_ == State::open ? error : Error::closed;
}

// Parks until the descriptor may be read; an idle stream owns no buffer meanwhile. What woke the
// thread is read whatever the time: a deadline that has passed ends the call before the next read.
Error Socket::await_input(CallDeadline& deadline) {
    if (readable() || end_of_input_) {
        loop().pace();
        if (state_ != State::open) return Error::closed;
        if (end_of_input_) return input_error_;
        if (!deadline.passed(loop())) return Error::none;
    }
    do {
        if (in_.empty()) in_.give_back(net_->pool());
        if (Error error = wait_ready(Direction::read, "receive", deadline)) return error;
    } while (!readable());
    return Error::none;
}

// Parks until at least one more byte is in the buffer. A peer's word for how much will come commits
// no memory: room grows with what arrives.
Error Socket::fill(CallDeadline& deadline) {
    for (;;) {
        if (Error error = await_input(deadline)) return error;
        in_.rewind();
        size_t worth = first_read_size << read_doublings_;
        if (in_.room_size() < worth / 2 && !in_.make_room(net_->pool(), worth))
            return Error::no_memory;
        size_t room = in_.room_size();
        ssize_t got = receive_into(in_.room(), room);
        if (got > 0) {
            in_.grew(size_t(got));
            if (size_t(got) == room && worth < largest_read_size) ++read_doublings_;
            return Error::none;
        }
        if (Error error = failed_receive(got)) return error;
    }
}

// receivepartial() of a count, with nothing in front: what is there, or what comes first. The way that
// most messages take is flattened into one function, whose registers are saved once; what seldom
// happens on it is marked to stay outside.
[[gnu::flatten]] Result<std::string_view> Socket::receive_available(size_t at_most) {
    if (Error error = begin_call()) return {{}, error};
    if (receiving_) return {{}, Error::busy};
    if (in_.empty()) {
        Hold hold{*this};
        Within mark{receiving_};
        CallDeadline deadline{receive_timeout_};
        Error error = fill(deadline);
        if (abandoned_) return {{}, Error::closed};  // the view would outlive the buffer
        if (error) return {{}, error};
    }
    size_t size = in_.size() < at_most ? in_.size() : at_most;
    const char* bytes = in_.data();
    in_.take(size);
    return {{bytes, size}, size < at_most ? Error::timeout : Error::none};
}

size_t Socket::limit_of(Pattern pattern) const {
    if (receive_limit_) return receive_limit_;
    return pattern.kind() == Pattern::Kind::line ? default_line_limit : default_all_limit;
}

Result<std::string_view> Socket::receive(Pattern pattern, std::string_view prefix, bool partial) {
    if (!pattern.valid()) return {prefix, Error::invalid};
    bool counts = pattern.kind() == Pattern::Kind::count;
    if (counts && prefix.size() >= pattern.count() && !prefix.empty()) return {prefix, {}};
    if (Error error = begin_call()) return {prefix, error};
    if (receiving_) return {prefix, Error::busy};
    Hold hold{*this};
    Within mark{receiving_};
    if (!in_.put_back(net_->pool(), prefix)) return {prefix, Error::no_memory};

    Framing framing{pattern, prefix.size(), limit_of(pattern)};
    CallDeadline deadline{receive_timeout_};
    // receive(0) waits for a byte and leaves it where it is.
    bool looks = counts && pattern.count() == 0;
    Error error = Error::none;
    bool done = false;
    for (;;) {
        if (!looks || !in_.empty()) done = framing.complete(in_.view());
        if (done || framing.oversized(in_.view())) break;
        if (partial && in_.size() > prefix.size()) {
            error = Error::timeout;
            break;
        }
        if ((error = fill(deadline))) break;
    }
    if (abandoned_) return {{}, Error::closed};  // the view would outlive the buffer

    size_t length = in_.size(), consumed = in_.size();
    if (done) {
        length = framing.length();
        consumed = framing.consumed();
        error = Error::none;
    } else if (!error) {
        error = Error::oversized;
        length = consumed = framing.limit();
    } else if (pattern.kind() == Pattern::Kind::all && in_.size() > prefix.size() &&
               state_ == State::open && error.code() == Error::closed.code()) {
        error = Error::none;  // the peer's end, not a reset: that is `closed`, too
    }
    char* bytes = in_.data();
    in_.take(consumed);
    if (pattern.kind() == Pattern::Kind::line)
        return {without_cr(bytes, prefix.size(), length), error};
    return {{bytes, length}, error};
}

Result<std::span<char>> Socket::receive_some(std::span<char> out) {
    if (Error error = begin_call()) return {out.first(0), error};
    if (receiving_) return {out.first(0), Error::busy};
    Hold hold{*this};
    Within mark{receiving_};
    CallDeadline deadline{receive_timeout_};
    while (in_.empty() && !out.empty()) {
        if (Error error = await_input(deadline)) return {out.first(0), error};
        ssize_t got = receive_into(out.data(), out.size());
        if (got > 0) return {out.first(size_t(got)), {}};
        if (Error error = failed_receive(got)) return {out.first(0), error};
    }
    return {out.first(take_buffered(out)), {}};
}

Result<std::span<char>> Socket::receive_all(std::span<char> out) {
    // A smaller rest comes by way of the buffer, together with what follows it.
    constexpr size_t worth_a_read = 4096;
    if (Error error = begin_call()) return {out.first(0), error};
    if (receiving_) return {out.first(0), Error::busy};
    Hold hold{*this};
    Within mark{receiving_};
    CallDeadline deadline{receive_timeout_};
    size_t filled = take_buffered(out);
    while (filled < out.size()) {
        std::span<char> rest = out.subspan(filled);
        Error error;
        if (rest.size() < worth_a_read) {
            error = fill(deadline);
            if (!error) filled += take_buffered(rest);
        } else if (!(error = await_input(deadline))) {
            ssize_t got = receive_into(rest.data(), rest.size());
            if (got > 0) filled += size_t(got);
            else error = failed_receive(got);
        }
        if (error) return {out.first(filled), error};
    }
    return {out, {}};
}

// Moves what is in the buffer, as far as it fits; returns how much.
size_t Socket::take_buffered(std::span<char> out) {
    size_t size = in_.size() < out.size() ? in_.size() : out.size();
    if (size) memcpy(out.data(), in_.data(), size);
    in_.take(size);
    return size;
}

}  // namespace copse
