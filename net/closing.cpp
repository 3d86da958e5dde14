// The life of a socket: how it comes about, and how it ends without losing what was sent.
#include "net/socket.h"

namespace copse {

namespace {
// How long and how much a closing socket writes and drains before it gives up on the peer.
constexpr int64_t linger_whole = 30'000'000'000;
constexpr int64_t linger_idle = 2'000'000'000;
constexpr size_t linger_bytes = size_t(256) << 10;
constexpr size_t most_lingering = 1024;
}  // namespace

Socket::Socket(Net& net, int fd, Kind kind)
    : kind_{kind}, fd_{fd}, net_{&net}, made_{net.loop().now()} {
    net.add(*this);
}

// Takes the descriptor over, though it is not known yet to be of use.
Result<Socket*> Socket::make(int fd, Kind kind) {
    Result<Net*> net = Net::obtain();
    bool listens = kind == Kind::listening;
    size_t size = listens ? sizeof(ListeningSocket) : sizeof(Socket);
    void* room = net ? net.value->take_room(size) : nullptr;
    if (!room) {
        const System& system = system_to_use();
        system.close(system, fd);
        return {nullptr, net ? Error::no_memory : net.error};
    }
    if (listens) return {::new (room) ListeningSocket(**net, fd), {}};
    return {::new (room) Socket(**net, fd, kind), {}};
}

Result<Socket*> Socket::adopt(int fd, uint32_t ready, Kind kind) {
    Result<Socket*> made = make(fd, kind);
    if (!made) return made;
    Socket* socket = *made;
    Result<Watch*> watch = socket->loop().watch(fd, ready);
    if (!watch) {
        socket->close_descriptor();
        socket->release();
        return {nullptr, watch.error};
    }
    socket->watch_ = watch.value;
    return {socket, {}};
}

void Socket::refuse(Error reason) {
    state_ = State::refused;
    broken_ = reason;
}

Socket* Socket::wrap(int fd, Kind kind) {
    Result<Socket*> made = make(fd, kind);
    if (!made) return nullptr;
    Socket* socket = *made;
    const System& system = socket->system();
    int failed = system.adopt(system, fd);
    if (failed) {
        socket->refuse(Error::from_errno(-failed));
        socket->fd_ = -1;  // not a descriptor: nothing to close
        return socket;
    }
    int number = 0;
    socklen_t size = sizeof number;
    socket->is_socket_ = !system.get_option(system, fd, SOL_SOCKET, SO_TYPE, &number, &size);
    if (socket->is_socket_) set_nodelay(system, fd);
    number = 0;
    size = sizeof number;
    system.get_option(system, fd, SOL_SOCKET, SO_ACCEPTCONN, &number, &size);
    bool listens = kind == Kind::listening;
    Result<Watch*> watch = socket->loop().watch(fd, listens ? 0u : uint32_t(PollEvent::writable));
    if (!watch) socket->refuse(watch.error);
    else if ((number != 0) != listens) socket->refuse(Error::invalid);
    socket->watch_ = watch.value;
    return socket;
}

void Socket::release() {
    if (--references_ == 0) destroy();
}

void Socket::abandon() {
    abandoned_ = true;
    (void)close();
    release();
}

void Socket::destroy() {
    Net& net = *net_;
    leave_parent();
    in_.give_back(net.pool());
    out_.give_back(net.pool());
    drop_name();
    if (!net.ended()) net.remove(*this);
    size_t whole = size();
    this->~Socket();
    net.give_room(this, whole);
}

void Socket::leave_parent() {
    if (parent_) parent_->release();
    parent_ = nullptr;
}

// Closing -----------------------------------------------------------------------------------------

Error Socket::close() {
    if (state_ == State::refused) close_descriptor();
    if (state_ != State::open) return Error::none;
    let_go();
    return broken_untold_ ? take_error() : Error::none;
}

// The user's part of closing: whoever is parked is woken, and what cannot be settled at once is
// left to a thread of the library's.
void Socket::let_go() {
    state_ = State::closing;
    if (loop().forked()) {
        wake_everybody();
        return close_descriptor();
    }
    drain_out();
    loop().disturb(*watch_);
    wake_everybody();
    if (kind_ == Kind::listening) return close_descriptor();
    send_ended_ = true;
    end_sending();
    size_t most = linger_bytes;
    if (is_socket_) discard_input(most);
    bool crowded = out_.empty() && net_->lingering >= most_lingering;
    if (settled(most) || crowded) return close_descriptor();
    ++references_;
    ++net_->lingering;
    auto body = [this] {
        linger();
        --net_->lingering;
        release();
    };
    if (addthread({.name = "linger"}, body)) return;
    --net_->lingering;
    close_descriptor();
    --references_;  // the caller holds one still
}

// Whoever waits for something else than the descriptor.
void Socket::wake_everybody() {
    loop().fire_all(flushers_);
    if (ListeningSocket* listening = as_listening()) listening->wake_acceptors();
}

// Whether closing the descriptor now loses nothing. Only a socket's end is spoilt by unread input;
// that of a pipe or a terminal belongs to whoever reads it next.
bool Socket::settled(size_t most_to_discard) const {
    bool drained = end_of_input_ || !is_socket_ || most_to_discard == 0;
    return broken_ || (out_.empty() && drained);
}

// Reads away what the peer has sent, as far as it is there.
void Socket::discard_input(size_t& most) {
    char scrap[4096];
    while (!end_of_input_ && most && readable()) {
        ssize_t got = receive_into(scrap, sizeof scrap);
        if (got > 0) most -= size_t(got) < most ? size_t(got) : most;
        else (void)failed_receive(got);
    }
}

// On a thread of its own: writes the rest, ends sending, and waits for the peer's end, for a
// bounded time. Input is drained from the first: a peer may want to be rid of its own bytes before
// it reads ours.
void Socket::linger() {
    CallDeadline whole{linger_whole};
    size_t most = linger_bytes;
    for (;;) {
        drain_out();
        if (is_socket_) discard_input(most);
        if (settled(most) || whole.passed(loop())) break;
        Events wanted = out_.empty() ? Events::none : Events::writable;
        if (is_socket_ && most && !end_of_input_) wanted = wanted | Events::readable;
        int64_t end = whole.at(loop()), idle = Duration::add(loop().now(), linger_idle);
        if (out_.empty() && idle < end) end = idle;
        Events got = Events::none;
        if (loop().admit() || loop().wait_either(*watch_, wanted, {"linger", end}, got)) break;
    }
    close_descriptor();
}

// The one place where a descriptor is closed: after its watch, and never twice.
void Socket::close_descriptor() {
    state_ = State::closed;
    lose_unsent();
    loop().unqueue(*this);
    if (watch_) loop().unwatch(*watch_);
    watch_ = nullptr;
    ListeningSocket* listening = as_listening();
    if (listening && listening->unlinks() && !loop().forked()) {
        Result<Address> path = own_name();
        if (path && path->host().text[0] != '@')
            system().unlink(system(), path->host().c_str());
    }
    if (fd_ >= 0) system().close(system(), fd_);
    fd_ = -1;
    loop().fire_all(net_->starved);
    if (parent_) parent_->one_less();
}

Error Socket::reset() {
    if (Error error = usable()) return error;
    struct {
        int on = 1;
        int seconds = 0;
    } at_once;
    system().set_option(system(), fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    state_ = State::closing;
    wake_everybody();
    close_descriptor();
    return Error::none;
}

// The loop goes, a Stream somewhere still holds on: one last try at what is unsent, and no more.
void Socket::end_with_loop() {
    if (state_ != State::closed) {
        if (watch_ && !loop().forked()) drain_out();
        close_descriptor();
    }
    in_.give_back(net_->pool());
    // From here on it has nothing to do with any other.
    if (number_) (void)name();
    if (number_) drop_name();
    leave_parent();
}

}  // namespace copse
