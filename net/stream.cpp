// Stream: the user's end of a Socket.
#include "net/socket.h"

namespace copse {

namespace {

// The socket of a stream in use, on the OS thread that may use it.
Socket* mine(Socket* socket) {
    if (socket) check(socket->belongs_here(), "a stream used on the OS thread of its loop");
    return socket;
}

}  // namespace

Stream::Stream(Stream&& other) noexcept : socket_{other.socket_} { other.socket_ = nullptr; }

Stream& Stream::operator=(Stream&& other) noexcept {
    if (this == &other) return *this;
    Stream old{std::move(*this)};
    socket_ = other.socket_;
    other.socket_ = nullptr;
    return *this;
}

Stream::~Stream() {
    if (mine(socket_)) socket_->abandon();
}

Result<std::string_view> Stream::receive(Pattern pattern, std::string_view prefix) {
    if (!mine(socket_)) return {prefix, Error::closed};
    return socket_->receive(pattern, prefix, false);
}

Result<std::string_view> Stream::receivepartial(Pattern pattern, std::string_view prefix) {
    if (!mine(socket_)) return {prefix, Error::closed};
    if (pattern.kind() == Pattern::Kind::count && pattern.count() && prefix.empty())
        return socket_->receive_available(pattern.count());
    return socket_->receive(pattern, prefix, true);
}

Result<std::span<char>> Stream::receive(std::span<char> all_of_it) {
    if (!mine(socket_)) return {all_of_it.first(0), Error::closed};
    return socket_->receive_all(all_of_it);
}

Result<std::span<char>> Stream::receive_some(std::span<char> out) {
    if (!mine(socket_)) return {out.first(0), Error::closed};
    return socket_->receive_some(out);
}

Result<size_t> Stream::send(std::string_view data) {
    if (!mine(socket_)) return {0, Error::closed};
    return socket_->send(data);
}

Result<size_t> Stream::send(std::span<const std::string_view> pieces) {
    if (!mine(socket_)) return {0, Error::closed};
    return socket_->send(pieces.data(), pieces.size());
}

Result<size_t> Stream::send(std::string_view data, ptrdiff_t i, ptrdiff_t j) {
    auto size = ptrdiff_t(data.size());
    if (i < 0) i = size + i + 1;
    if (i < 1) i = 1;
    if (j < 0) j = size + j + 1;
    if (j > size) j = size;
    if (!mine(socket_)) return {size_t(i - 1), Error::closed};
    std::string_view range = i <= j ? part(data, size_t(i - 1), size_t(j - i + 1)) : std::string_view{};
    Result<size_t> sent = socket_->send(range);
    return {size_t(i - 1) + *sent, sent.error};
}

Error Stream::flush() { return mine(socket_) ? socket_->flush() : Error::closed; }
Error Stream::close() { return mine(socket_) ? socket_->close() : Error::none; }
Error Stream::reset() { return mine(socket_) ? socket_->reset() : Error::closed; }
Error Stream::shutdown(How how) { return mine(socket_) ? socket_->shutdown(how) : Error::closed; }

void Stream::settimeout(Duration length) { settimeouts(length, length, length); }
void Stream::settimeouts(Duration, Duration send, Duration receive) {
    if (mine(socket_)) socket_->settimeouts(send, receive);
}
void Stream::setlimit(size_t receive_bytes, size_t send_bytes) {
    if (mine(socket_)) socket_->setlimit(receive_bytes, send_bytes);
}

Error Stream::setoption(Option option, int value) {
    return mine(socket_) ? socket_->setoption(option, value) : Error::closed;
}
Error Stream::setoption(Option option, std::string_view value) {
    return mine(socket_) ? socket_->setoption(option, value) : Error::closed;
}
Result<int> Stream::getoption(Option option) {
    if (!mine(socket_)) return {0, Error::closed};
    return socket_->getoption(option);
}
Result<Address> Stream::getpeername() const {
    if (!mine(socket_)) return {{}, Error::closed};
    return socket_->peer_name();
}
Result<Address> Stream::getsockname() const {
    if (!mine(socket_)) return {{}, Error::closed};
    return socket_->own_name();
}
Stats Stream::getstats() const { return mine(socket_) ? socket_->stats() : Stats{}; }
bool Stream::dirty() const { return mine(socket_) && socket_->dirty(); }
int Stream::getfd() const { return socket_ ? socket_->fd() : -1; }
Error Stream::setname(const char* name) {
    return mine(socket_) ? socket_->setname(name) : Error::closed;
}
const char* Stream::name() const { return mine(socket_) ? socket_->name() : ""; }

}  // namespace copse
