// The programs that are tortured: each uses one part of copse, the peer behaves well.
#pragma once

#include "sim_torture.h"

#include "runtime/system.h"

#include <algorithm>
#include <stdexcept>

namespace torture {

using View = std::string_view;

// Receiving ---------------------------------------------------------------------------------------

inline void receives_lines(Trial& t) {
    Stream stream = t.dial(port_of(lines));
    for (const char* wanted : {"one", "two", "", "three and a half"}) {
        Result<View> line = stream.receive("*l");
        if (!t.fine(line)) return;
        t.same(*line, wanted, true, "a line");
    }
    Result<View> rest = stream.receive("*l");
    if (t.ends(rest.error, Error::closed, "the end")) t.same(*rest, "the rest", true, "the rest");
}

inline void receives_all(Trial& t) {
    Stream stream = t.dial(port_of(source));
    Result<View> all = stream.receive("*a");
    t.same(*all, text(source_size), t.fine(all), "everything");
}

inline void receives_counts(Trial& t) {
    Stream stream = t.dial(port_of(source));
    size_t at = 0;
    for (size_t size : {1, 4095, 50000, 3, 45901}) {
        Result<View> some = stream.receive(size);
        t.same(*some, text(size, at), t.fine(some), "a count");
        if (some.error) return;
        at += size;
    }
    t.ends(stream.receive(1).error, Error::closed, "the end");
}

inline void receives_spans(Trial& t) {
    Stream stream = t.dial(port_of(source));
    std::string room(60000, ' ');
    Result<std::span<char>> got = stream.receive(std::span<char>(room.data(), room.size()));
    t.same({got->data(), got->size()}, text(60000), t.fine(got), "a span");
    if (got.error) return;
    got = stream.receive(std::span<char>(room.data(), room.size()));
    if (t.ends(got.error, Error::closed, "the end"))
        t.same({got->data(), got->size()}, text(40000, 60000), true, "the rest of a span");
}

inline void receives_what_is_there(Trial& t) {
    Stream stream = t.dial(port_of(source));
    std::string room(3000, ' '), all;
    for (;;) {
        auto got = stream.receive_some(std::span<char>(room.data(), room.size()));
        all.append(got->data(), got->size());
        if (got) continue;
        t.same(all, text(source_size), t.ends(got.error, Error::closed, "the end"), "pieces");
        return;
    }
}

inline void receives_partially(Trial& t) {
    Stream stream = t.dial(port_of(source));
    std::string all;
    for (;;) {
        Result<View> got = stream.receivepartial(20000);
        all += *got;
        if (got || (got.error == Error::timeout && !got->empty())) continue;
        t.same(all, text(source_size), t.ends(got.error, Error::closed, "the end"), "parts");
        return;
    }
}

inline void receives_with_a_prefix(Trial& t) {
    Stream stream = t.dial(port_of(lines));
    stream.setlimit(12, 0);
    Result<View> line = stream.receive("*l", "twenty-");
    if (!t.fine(line)) return;
    t.same(*line, "twenty-one", true, "a line with a prefix");
    if (!t.fine(stream.receive("*l")) || !t.fine(stream.receive("*l"))) return;
    line = stream.receive("*l");
    if (!t.ends(line.error, Error::oversized, "oversized")) return;
    t.same(*line, "three and a ", true, "what fits");
    std::string prefix(20000, '-');
    line = stream.receive(20004, prefix);
    t.same(*line, prefix + "half", t.fine(line), "a long prefix");
}

// Sending -----------------------------------------------------------------------------------------

inline void sends_little(Trial& t) {
    Stream stream = t.dial(port_of(sink));
    for (int i = 0; i < 10; ++i)
        if (!t.put(stream, 5)) return;
    (void)t.fine(stream.close());
}

inline void sends_beyond_the_limit(Trial& t) {
    Stream stream = t.dial(port_of(sink));
    for (size_t size : {300000, 10, 70000})
        if (!t.put(stream, size)) return;
    (void)t.fine(stream.flush());
    (void)t.fine(stream.close());
}

inline void sends_pieces(Trial& t) {
    Stream stream = t.dial(port_of(sink));
    stream.setlimit(0, 500);
    for (size_t size : {size_t(10), size_t(1000)}) {
        std::vector<View> pieces;
        for (size_t i = 0; i < 20; ++i) pieces.push_back(text(size, t.accepted + i * size));
        Result<size_t> sent = stream.send(pieces);
        t.accepted += *sent;
        if (!t.fine(sent)) return;
    }
    (void)t.fine(stream.close());
}

inline void sends_ranges(Trial& t) {
    Stream stream = t.dial(port_of(sink));
    View all = text(9000);
    for (ptrdiff_t i = 1; i <= 9000; i += 3000) {
        Result<size_t> sent = stream.send(all, i, i + 2999);
        t.accepted = *sent;
        if (!t.fine(sent)) return;
        if (i == 3001 && !t.fine(stream.flush())) return;
    }
}

inline void flushes(Trial& t) {
    Stream stream = t.dial(port_of(sink));
    for (size_t size : {10, 60000, 1}) {
        if (!t.put(stream, size)) return;
        if (!t.fine(stream.flush())) return;
        t.expect(stream.getstats().sent == t.accepted, "the kernel has what was flushed");
    }
}

inline void sends_to_who_does_not_read(Trial& t) {
    Stream stream = t.dial(port_of(deaf));
    stream.settimeout(2_s);
    t.gave_up = true;
    Result<size_t> sent = stream.send(text(900000));
    // A pair of large buffers takes it all.
    if (sent.error != Error::timeout) (void)t.fine(sent);
    Error flushed = stream.flush();
    if (flushed != Error::timeout) (void)t.fine(flushed);
    (void)stream.reset();
}

// Ending ------------------------------------------------------------------------------------------

inline void half_closes(Trial& t) {
    Stream stream = t.dial(port_of(echo));
    t.gave_up = true;
    if (!t.put(stream, 5000) || !t.fine(stream.shutdown(How::send))) return;
    t.ends(stream.send("more").error, Error::closed, "sending has ended");
    Result<View> all = stream.receive("*a");
    t.same(*all, text(5000), t.fine(all), "the echo");
}

inline void shuts_down_receiving(Trial& t) {
    Stream stream = t.dial(port_of(sink));
    if (!t.fine(stream.shutdown(How::receive))) return;
    t.ends(stream.receive("*l").error, Error::closed, "receiving has ended");
    (void)t.put(stream, 100);
}

inline void shuts_down_both(Trial& t) {
    Stream stream = t.dial(port_of(sink));
    if (!t.put(stream, 100) || !t.fine(stream.shutdown())) return;
    t.ends(stream.send("more").error, Error::closed, "sending has ended");
}

inline void closes_with_unread_input(Trial& t) {
    Stream stream = t.dial(port_of(sink));
    Stream other = t.dial(port_of(source));
    if (!t.fine(other.receive(10))) return;
    (void)other.send("thank you");
    (void)t.put(stream, 50000);
    (void)t.fine(other.close());
    (void)t.fine(stream.close());
    (void)t.fine(stream.close());
    t.ends(stream.receive("*l").error, Error::closed, "a closed stream");
}

inline void goes_out_of_scope(Trial& t) {
    {
        Stream stream = t.dial(port_of(sink));
        (void)t.put(stream, 40000);
    }
    (void)sleep_for(1_s);
}

inline void resets(Trial& t) {
    Stream stream = t.dial(port_of(sink));
    (void)t.put(stream, 1000);
    t.gave_up = true;
    (void)t.fine(stream.reset());
    t.ends(stream.flush(), Error::closed, "a reset stream");
}

inline void is_reset(Trial& t) {
    Stream stream = t.dial(port_of(resetter));
    t.gave_up = true;
    if (!t.fine(stream.send("reset me\n"))) return;
    Result<View> line = stream.receive("*l");
    t.means(line.error, Error::closed, "the reset");
    (void)sleep_for(1_s);
    Result<size_t> sent = stream.send("again");
    t.means(sent.error ? sent.error : stream.flush(), Error::closed, "nothing can be sent");
}

// More than the kernel takes, so that a flush has to wait.
inline void fill_up(Trial& t, Stream& stream) {
    stream.setlimit(0, size_t(1) << 20);
    stream.settimeout(20_s);  // without memory this waits already
    (void)t.fine(stream.send(text(800000)));
    stream.settimeout(never);
}

// Another thread ends what this one is parked in.
inline void is_closed_while_parked(Trial& t) {
    Stream quiet = t.dial(port_of(mute)), full = t.dial(port_of(deaf));
    Result<Listener> listener = bind("*", 4100);
    Result<std::pair<Stream, Stream>> both = pair();
    if (!quiet || !full || !t.fine(listener) || !t.fine(both)) return;
    t.gave_up = true;
    fill_up(t, both->first);
    Thread threads[] = {
        t.go([&] { t.ends(quiet.receive("*l").error, Error::closed, "receive"); }),
        t.go([&] { t.ends(listener->accept().error, Error::closed, "accept"); }),
        t.go([&] {
            for (int i = 0; i < 4; ++i) {
                Result<size_t> sent = full.send(text(1000000));
                if (sent) continue;
                t.ends(sent.error, Error::closed, "send");
                return;
            }
        }),
        t.go([&] { t.ends(both->first.flush(), Error::closed, "flush"); }),
    };
    (void)sleep_for(1_s);
    (void)t.fine(both->first.close());
    (void)t.fine(quiet.close());
    (void)t.fine(full.close());
    (void)t.fine(listener->close());
    for (Thread each : threads) (void)each.join();
}

inline void is_canceled_while_parked(Trial& t) {
    Stream quiet = t.dial(port_of(mute)), full = t.dial(port_of(deaf));
    Result<Listener> listener = bind("*", 4100);
    Result<std::pair<Stream, Stream>> both = pair();
    if (!quiet || !full || !t.fine(listener) || !t.fine(both)) return;
    t.gave_up = true;
    fill_up(t, both->first);
    Thread forever = t.go([] { (void)sleep_for(200_s); });
    std::vector<Thread> threads = {
        t.go([&] { t.ends(quiet.receive("*l").error, Error::canceled, "receive"); }),
        t.go([&] { t.ends(listener->accept().error, Error::canceled, "accept"); }),
        t.go([&] {
            Result<size_t> sent;
            while (!sent.error) sent = full.send(text(1000000));
            t.ends(sent.error, Error::canceled, "send");
        }),
        t.go([&] { t.ends(both->first.flush(), Error::canceled, "flush"); }),
        t.go([&] { t.ends(sleep_for(100_s), Error::canceled, "sleep"); }),
        t.go([&] { t.ends(park(), Error::canceled, "park"); }),
        t.go([&] {
            if (!forever.finished()) t.ends(forever.join(), Error::canceled, "join");
        }),
        t.go([&] { t.ends(wait_for_stop(), Error::canceled, "wait_for_stop"); }),
    };
    t.cut = true;
    threads.push_back(t.go([&] {
        (void)sleep_for(1_ms);
        t.ends(connect("there", 4999, 100_s).error, Error::canceled, "connect");
    }));
    (void)sleep_for(1_s);
    t.cut = false;
    for (Thread each : threads) (void)t.fine(each.cancel());
    for (Thread each : threads) (void)each.join();
    (void)forever.cancel();
    (void)forever.join();
    (void)full.reset();
}

inline void runs_out_of_time(Trial& t) {
    Stream quiet = t.dial(port_of(mute));
    Result<Listener> listener = bind("*", 4100);
    if (!quiet || !t.fine(listener)) return;
    quiet.settimeout(1_s);
    Time before = now();
    t.ends(quiet.receive("*l").error, Error::timeout, "receive");
    t.ends(quiet.receive_some(std::span<char>()).error, Error::none, "nothing is there at once");
    char byte;
    t.ends(quiet.receive(std::span<char>(&byte, 1)).error, Error::timeout, "a span");
    t.ends(quiet.receivepartial(5).error, Error::timeout, "receivepartial");
    t.expect(now() - before >= 3_s, "three timeouts");
    Timeout outer{10_s};
    {
        Timeout inner{1_s};
        t.ends(listener->accept().error, Error::timeout, "accept");
        t.ends(sleep_for(1_s), Error::timeout, "a scope that is over");
        t.expect(inner.expired() && !outer.expired(), "scopes");
    }
    t.ends(connect("there", 4999, 1_s).error, Error::from_errno(ECONNREFUSED), "a closed port");
    t.cut = true;
    (void)sleep_for(1_ms);
    t.ends(connect("there", 4999, 1_s).error, Error::timeout, "connect");
    t.cut = false;
    t.ends(park(), Error::timeout, "park");
}

// Listening ---------------------------------------------------------------------------------------

// A client on the other host: asks for lines until it has so many answers.
inline void ask(Trial& t, uint16_t port, int number) {
    Result<Stream> stream;
    for (int i = 0; i < 40 && !(stream = connect("here", port, 10_s)); ++i) (void)sleep_for(50_ms);
    if (stream) {
        stream->settimeout(20_s);
        for (int i = 0; i < number; ++i) {
            std::string line(text(size_t(20 + 90 * i), size_t(i * 17)));
            (void)stream->send(line + "\n");
            Result<View> answer = stream->receive("*l");
            t.same(*answer, line, false, "an answer");
            if (!answer) break;
            ++t.answers;
        }
        (void)stream->close();
    }
    ++t.clients_done;
}
template <int Clients, int Lines> void clients(Trial& t) {
    for (int i = 0; i < Clients; ++i) (void)addthread([&t] { ask(t, 5000, Lines); });
}
inline void await_clients(Trial& t, int number, int answers) {
    for (int i = 0; i < 2400 && t.clients_done < number; ++i)
        if (sleep_for(50_ms)) break;
    t.expect(t.answers == answers, "every line is answered");
}

inline void answer_lines(Trial& t, Stream& stream) {
    for (;;) {
        Result<View> line = stream.receive("*l");
        if (!line) {
            t.ends(line.error, Error::closed, "the client's end");
            return;
        }
        View pieces[] = {*line, "\n"};
        if (!t.fine(stream.send(pieces))) return;
    }
}

inline void accepts(Trial& t) {
    Result<Listener> listener = bind("*", 5000);
    if (!t.fine(listener)) return;
    (void)t.fine(listener->address());
    Timeout whole{100_s};
    for (int i = 0; i < 3; ++i) {
        Result<Stream> stream = listener->accept();
        if (!t.fine(stream)) return;
        stream->settimeout(20_s);
        answer_lines(t, *stream);
    }
    await_clients(t, 3, 6);
    (void)t.fine(listener->close());
}

inline void serves_bytes(Trial& t) {
    Result<Server> server = addserver(5000, [&t](Stream& stream) {
        std::string room(1000, ' ');
        for (;;) {
            auto got = stream.receive_some(std::span<char>(room.data(), room.size()));
            if (!got) {
                t.ends(got.error, Error::closed, "the client's end");
                return;
            }
            if (!t.fine(stream.send({got->data(), got->size()}))) return;
            if (!t.fine(stream.flush())) return;
        }
    }, 20_s);
    if (!t.fine(server)) return;
    await_clients(t, 3, 9);
    (void)t.fine(server->remove());
}

template <int Clients, int Lines> void serves_lines(Trial& t) {
    Result<Server> server = addserver(5000, [&t](Stream& stream) { answer_lines(t, stream); }, 20_s,
                                      "lines");
    if (!t.fine(server)) return;
    await_clients(t, Clients, Clients * Lines);
    (void)t.fine(server->address());
    (void)t.fine(server->remove());
}

inline void has_a_handler_that_throws(Trial& t) {
    Result<Server> server = addserver(5000, [&t](Stream& stream) {
        Result<View> line = stream.receive("*l");
        View pieces[] = {*line, "\n"};
        if (t.fine(line) && t.fine(stream.send(pieces))) throw std::runtime_error("on purpose");
    }, 20_s);
    if (!t.fine(server)) return;
    await_clients(t, 3, 3);
    (void)t.fine(server->remove());
}

inline void is_removed_midway(Trial& t) {
    auto handler = [&t](Stream& stream) { answer_lines(t, stream); };
    Result<Server> server = addserver(5000, handler, 20_s);
    if (!t.fine(server)) return;
    for (int i = 0; i < 200 && !server->connections(); ++i)
        if (sleep_for(200_us)) break;
    bool served = server->connections() > 0;
    (void)t.fine(server->remove());
    (void)t.fine(server->remove());
    for (int i = 0; i < 2400 && t.clients_done < 2; ++i)
        if (sleep_for(50_ms)) break;
    t.expect(served && t.answers >= 4, "who was there is served to the end");
}

inline void limits_its_connections(Trial& t) {
    Result<Listener> listener = bind("*", 5000, {.max_connections = 2});
    if (!t.fine(listener)) return;
    Result<Server> server = addserver(std::move(*listener), [&t](Stream& stream) {
        t.expect(t.clients_done <= 5, "clients");
        answer_lines(t, stream);
    }, 20_s);
    if (!t.fine(server)) return;
    await_clients(t, 5, 10);
    (void)t.fine(server->remove());
}

inline void keeps_its_listener_open(Trial& t) {
    Result<Server> server = addserver(5000, [](Stream&) {}, 20_s);
    if (!t.fine(server) || !t.fine(server->remove(true))) return;
    if (!t.fine(yield())) return;
    Listener listener = server->listener();
    Timeout whole{20_s};
    Result<Stream> stream = listener.accept();
    if (!t.fine(stream)) return;
    stream->settimeout(20_s);
    answer_lines(t, *stream);
    await_clients(t, 1, 2);
}

// Local sockets -----------------------------------------------------------------------------------

inline void talk_to_itself(Trial& t, const Address& where) {
    Result<Listener> listener = bind(where);
    if (!t.fine(listener)) return;
    Result<Address> address = listener->address();
    if (!t.fine(address)) return;
    Thread other = t.go([&] {
        Timeout whole{30_s};
        Result<Stream> peer = listener->accept();
        if (t.fine(peer)) answer_lines(t, *peer);
    });
    Result<Stream> stream = connect(*address, 20_s);
    if (t.fine(stream)) {
        stream->settimeout(20_s);
        std::string line(text(3000));
        if (t.fine(stream->send(line + "\n"))) {
            Result<View> answer = stream->receive("*l");
            t.same(*answer, line, t.fine(answer), "an answer");
        }
        (void)t.fine(stream->close());
    }
    (void)other.join();
    (void)t.fine(listener->close());
}
inline void uses_a_path(Trial& t) { talk_to_itself(t, *Address::parse("unix:/tmp/torture")); }
inline void uses_an_abstract_name(Trial& t) { talk_to_itself(t, *Address::parse("unix:@torture")); }
inline void uses_ipv6(Trial& t) { talk_to_itself(t, *Address::parse("[::1]:0")); }

// More clients than the listener of a path has room for.
inline void crowds_a_path(Trial& t) {
    Address where = *Address::parse("unix:/tmp/torture");
    Result<Listener> listener = bind(where, {.backlog = 1});
    if (!t.fine(listener)) return;
    std::vector<Thread> threads;
    for (int i = 0; i < 5; ++i) {
        threads.push_back(t.go([&] {
            Result<Stream> stream = connect(where, 30_s);
            if (!t.fine(stream)) return;
            stream->settimeout(30_s);
            Result<View> line = stream->receive("*l");
            t.same(*line, "hello", t.fine(line), "a greeting");
        }));
    }
    Timeout whole{30_s};
    for (int i = 0; i < 5; ++i) {
        if (!t.fine(sleep_for(20_ms))) break;
        bool all_gone = true;
        for (Thread each : threads) all_gone &= each.finished();
        if (all_gone) break;
        Result<Stream> peer = listener->accept();
        if (t.fine(peer)) (void)t.fine(peer->send("hello\n"));
    }
    (void)listener->close();
    for (Thread each : threads) (void)each.join();
}

inline void uses_a_pair(Trial& t) {
    Result<std::pair<Stream, Stream>> both = pair();
    if (!t.fine(both)) return;
    bool whole = true;
    for (size_t size : {10, 70000}) {
        Thread other = t.go([&] {
            both->second.settimeout(20_s);
            Result<View> got = both->second.receive(size);
            t.same(*got, text(size), t.fine(got), "a pair's bytes");
            whole = whole && got;
        });
        both->first.settimeout(20_s);
        whole = t.fine(both->first.send(text(size))) && whole;
        (void)other.join();
        if (!whole || !other.id()) return;
    }
    (void)t.fine(both->first.close());
    t.ends(both->second.receive("*l").error, Error::closed, "the other's end");
}

inline void has_many_streams(Trial& t) {
    std::vector<std::pair<Stream, Stream>> pairs;
    for (int i = 0; i < 12; ++i) {
        Result<std::pair<Stream, Stream>> both = pair();
        if (!t.fine(both)) return;
        both->first.settimeout(20_s);
        both->second.settimeout(20_s);
        pairs.push_back(std::move(*both));
    }
    for (auto& [one, other] : pairs)
        (void)t.fine(one.send(text(100)));
    for (auto& [one, other] : pairs) {
        Result<View> got = other.receive(100);
        t.same(*got, text(100), t.fine(got), "one of many");
    }
}

inline void transfers_both_ways(Trial& t) {
    Stream stream = t.dial(port_of(echo));
    constexpr size_t size = 250000;
    t.gave_up = true;
    if (!stream) return;
    Thread writer = t.go([&] {
        for (size_t at = 0; at < size; at += 25000)
            if (!t.fine(stream.send(text(25000, at)))) break;
        (void)t.fine(stream.shutdown(How::send));
    });
    std::string got, room(20000, ' ');
    for (;;) {
        auto some = stream.receive_some(std::span<char>(room.data(), room.size()));
        got.append(some->data(), some->size());
        if (some) continue;
        t.same(got, text(size), t.ends(some.error, Error::closed, "the end"), "the echo");
        break;
    }
    (void)writer.join();
}

// Descriptors from outside ------------------------------------------------------------------------

inline void wraps_descriptors(Trial& t) {
    const System& system = system_to_use();
    int ends[2];
    if (system.open_pair(system, AF_UNIX, SOCK_STREAM, ends)) {
        ++t.told;
        return;
    }
    int numbers[] = {ends[0], ends[1]};
    Stream one = wrap(ends[0]), other = wrap(ends[1]);
    one.settimeout(5_s);
    other.settimeout(5_s);
    bool good = t.fine(one.send(text(2000))) && t.fine(one.flush());
    Result<View> got = other.receive(2000);
    t.same(*got, text(2000), t.fine(got), "what went through");
    if (!good || got.error) {
        // A descriptor that was refused for not being one is left to whoever has it.
        auto refused = [](Stream& stream) { return !stream && stream.flush() != Error::closed; };
        if (refused(one)) (void)system.close(system, numbers[0]);
        if (refused(other)) (void)system.close(system, numbers[1]);
    }
}

inline void takes_a_listener_over(Trial& t) {
    const System& system = system_to_use();
    Address where = *Address::parse("127.0.0.1", 5001);
    int fd = system.open_socket(system, AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || system.bind(system, fd, where.raw(), socklen_t(where.size())) ||
        system.listen(system, fd, 5)) {
        if (fd >= 0) (void)system.close(system, fd);
        ++t.told;
        return;
    }
    Listener listener{fd};
    Thread other = t.go([&] {
        Timeout whole{10_s};
        Result<Stream> peer = listener.accept();
        if (t.fine(peer)) (void)t.fine(peer->send("hello\n"));
    });
    Result<Stream> stream = connect(where, 20_s);
    if (t.fine(stream)) {
        stream->settimeout(20_s);
        Result<View> line = stream->receive("*l");
        t.same(*line, "hello", t.fine(line), "a greeting");
    }
    (void)other.join();
    // One that was refused is left to whoever has it.
    if (!listener && listener.accept().error != Error::closed) (void)system.close(system, fd);
}

inline void waits_for_descriptors(Trial& t) {
    Stream stream = t.dial(port_of(echo));
    if (!stream) return;
    t.ends(wait(stream.getfd(), Events::readable, 1_s).error, Error::busy, "a stream's own");
    const System& system = system_to_use();
    int ends[2];
    if (system.open_pair(system, AF_UNIX, SOCK_STREAM, ends)) {
        ++t.told;
        return;
    }
    Thread writer = t.go([&] {
        (void)sleep_for(1_s);
        iovec hello{const_cast<char*>("hello"), 5};
        t.told += system.send(system, ends[1], &hello, 1) != 5;
    });
    Result<Events> got = wait(ends[0], Events::readable, 10_s);
    if (t.fine(got)) t.expect((*got & Events::readable) == Events::readable, "readable");
    got = wait(ends[0], Events::writable, 10_s);
    if (t.fine(got)) t.expect(*got == Events::writable, "writable");
    (void)writer.join();
    // A poller may say what is not so.
    if (Error error = wait(ends[1], Events::readable, 100_ms).error)
        t.ends(error, Error::timeout, "a wait");
    for (int each : ends) (void)system.close(system, each);
}

// Names and options -------------------------------------------------------------------------------

inline void asks_about_everything(Trial& t) {
    Stream stream = t.dial(port_of(echo));
    if (!stream) return;
    (void)t.fine(stream.getpeername());
    (void)t.fine(stream.getsockname());
    for (Option option :
         {Option::keepalive, Option::linger, Option::tcp_nodelay, Option::tcp_keepidle,
          Option::tcp_keepcnt, Option::tcp_keepintvl, Option::tcp_user_timeout,
          Option::recv_buffer_size, Option::send_buffer_size, Option::error})
        (void)t.fine(stream.getoption(option));
    for (Option option : {Option::keepalive, Option::tcp_nodelay, Option::tcp_keepidle,
                          Option::tcp_keepcnt, Option::tcp_keepintvl})
        (void)t.fine(stream.setoption(option, 1));
    (void)t.fine(stream.setoption(Option::linger, -1));
    (void)stream.setoption(Option::bindtodevice, "lo");
    t.ends(stream.setoption(Option::error, 1), Error::from_errno(ENOPROTOOPT), "error");
    if (t.fine(stream.setname("a stream"))) t.expect(View(stream.name()) == "a stream", "its name");
    t.expect(stream.getstats().sent == 0 && !stream.dirty(), "nothing yet");
    if (!t.fine(stream.send("ping"))) return;
    Result<View> back = stream.receive(4);
    t.same(*back, "ping", t.fine(back), "the echo");
    t.ends(connect("nobody", 1).error, Error::not_found, "no such host");
}

inline void shares_a_port(Trial& t) {
    ListenOptions options;
    options.reuseport = true;
    Result<Listener> one = bind("*", 5000, options);
    if (!t.fine(one)) return;
    Result<Listener> other = bind("*", 5000, options);
    if (!t.fine(other)) return;
    t.ends(bind("*", 5000).error, Error::from_errno(EADDRINUSE), "a port that is taken");
    (void)t.fine(one->setoption(Option::keepalive, 1));
    (void)t.fine(one->getoption(Option::reuseport));
}

// Threads -----------------------------------------------------------------------------------------

inline void sleeps_and_joins(Trial& t) {
    int done = 0;
    std::vector<Thread> threads;
    for (int i = 0; i < 40; ++i) {
        threads.push_back(t.go([&done, i] {
            (void)sleep_for(Duration::nanoseconds(1'000'000 * (i * 7 % 13 + 1)));
            ++done;
        }));
    }
    for (Thread each : threads) (void)t.fine(each.join());
    t.expect(done == 40, "everybody has slept");
}

inline void parks_and_unparks(Trial& t) {
    int turns = 0;
    Thread one, other;
    one = t.go([&] {
        for (; turns < 10 && !park(); ++turns) (void)other.unpark();
    });
    other = t.go([&] {
        for (int i = 0; i < 10; ++i) {
            (void)one.unpark();
            if (one.finished() || park()) break;
        }
    });
    // Neither is left alone if the other could not be had.
    (void)sleep_for(1_s);
    (void)one.cancel();
    (void)other.cancel();
    (void)one.join();
    (void)other.join();
    t.expect(turns == 10, "they woke each other");
}

// Stacks of every size, more than one slab of them, and threads that yield on them.
inline void has_many_threads(Trial& t) {
    int done = 0;
    std::vector<Thread> threads;
    for (size_t i = 0; i < 100; ++i) {
        size_t stack = i % 3 ? 0 : size_t(4096) << i % 7;
        Result<Thread> made = addthread({.name = "one of many", .stack_size = stack}, [&done] {
            if (!yield()) ++done;
        });
        if (t.fine(made)) threads.push_back(*made);
    }
    size_t made = threads.size();
    for (Thread each : threads) (void)t.fine(each.join());
    t.expect(made == 100 && done == 100, "everybody has run");
}

inline Local<int> a_local;
inline void has_locals(Trial& t) {
    for (int i = 0; i < 3; ++i) {
        t.go([&t] {
            int* mine = a_local.get();
            if (!mine) {
                ++t.told;
                return;
            }
            t.expect(*mine == 0, "a new one");
            *mine = 1;
            (void)yield();
            t.expect(*mine == 1, "its own");
        });
    }
}

// The loop ----------------------------------------------------------------------------------------

inline void is_stopped(Trial& t) {
    int stopped = 0;
    std::vector<Thread> threads;
    for (int i = 0; i < 5; ++i)
        threads.push_back(t.go([&] { stopped += t.fine(wait_for_stop()); }));
    (void)sleep_for(1_s);
    stop();
    for (Thread each : threads) (void)t.fine(each.join());
    t.expect(stopped == 5 && stopping(), "everybody was asked to stop");
}

inline void cancels_everybody(Trial& t) {
    int ended = 0;
    auto handler = [&t](Stream& stream) { answer_lines(t, stream); };
    Result<Server> server = addserver(5000, handler, 20_s);
    (void)t.fine(server);
    Stream quiet = t.dial(port_of(mute));
    Thread threads[] = {
        t.go([&] { ended += park() == Error::canceled; }),
        t.go([&] { ended += sleep_for(100_s) == Error::canceled; }),
        t.go([&] { ended += quiet.receive("*l").error == Error::canceled; }),
    };
    (void)sleep_for(1_s);
    cancelall();
    t.expect(yield() == Error::canceled, "the caller, too");
    bool all = true;
    for (Thread each : threads) all &= each.id() != 0;
    t.expect(all, "three threads");
}

// Main programs: outside of any thread.
inline void is_destroyed_with_threads(Trial& t) {
    Result<std::pair<Stream, Stream>> both = pair();
    (void)t.fine(both);
    int ended = 0;
    Result<Thread> parked = addthread([&] { ended += park() == Error::canceled; });
    Result<Thread> reader = addthread([&] {
        Error error = both->first.receive("*l").error;
        if (both.error) error = Error::canceled;
        ended += error == Error::canceled;
    });
    Result<Thread> sleeper = addthread([&] { ended += sleep_for(1000_s) == Error::canceled; });
    int made = t.fine(parked) + t.fine(reader) + t.fine(sleeper);
    Result<bool> ran = step(Duration{});
    (void)t.fine(ran);
    (void)t.fine(step(1_ms));
    (void)t.fine(destroy_loop());
    if (ran) t.expect(ended == made, "everybody was canceled");
    both.value = {};
    (void)t.fine(seterrorhandler(Trial::hear, &t, true));
}

inline void runs_step_by_step(Trial& t) {
    int done = 0;
    Result<Thread> worker = addthread([&] {
        Result<std::pair<Stream, Stream>> both = pair();
        if (!t.fine(both) || !t.fine(both->first.send("x\n"))) return;
        both->second.settimeout(10_s);
        Result<View> line = both->second.receive("*l");
        t.same(*line, "x", t.fine(line), "a line");
        done += !sleep_for(1_s);
    });
    (void)t.fine(worker);
    for (int i = 0; i < 1000 && !finished(); ++i) (void)t.fine(step(100_ms));
    t.expect(done == 1 && finished(), "it has run");
}

inline void makes_its_loop_with_a_stream(Trial& t) {
    (void)t.fine(destroy_loop());
    Result<Listener> listener = bind("127.0.0.1", 5002);
    (void)t.fine(listener);
    Result<std::pair<Stream, Stream>> both = pair();
    (void)t.fine(both);
    (void)t.fine(seterrorhandler(Trial::hear, &t, true));
    if (both) (void)t.fine(both->first.send("before the loop"));
    (void)t.fine(loop([&] {
        if (!both) return;
        both->second.settimeout(10_s);
        Result<View> got = both->second.receive(15);
        t.same(*got, "before the loop", t.fine(got), "what was sent");
    }));
}

inline void sleeps_among_many(Trial& t) {
    int done = 0;
    for (int i = 0; i < 150; ++i)
        t.go([&t, &done] {
            done += t.fine(sleep_for(1_s));
        });
    (void)sleep_for(5_s);
    t.expect(done == 150, "everybody has woken");
}

inline const std::vector<Scenario> scenarios = {
    {"receives_lines", lines, receives_lines},
    {"receives_all", source, receives_all},
    {"receives_counts", source, receives_counts},
    {"receives_spans", source, receives_spans},
    {"receives_what_is_there", source, receives_what_is_there},
    {"receives_partially", source, receives_partially},
    {"receives_with_a_prefix", lines, receives_with_a_prefix},
    {"sends_little", sink, sends_little},
    {"sends_beyond_the_limit", sink, sends_beyond_the_limit},
    {"sends_pieces", sink, sends_pieces},
    {"sends_ranges", sink, sends_ranges},
    {"flushes", sink, flushes},
    {"sends_to_who_does_not_read", deaf, sends_to_who_does_not_read},
    {"half_closes", echo, half_closes},
    {"shuts_down_receiving", sink, shuts_down_receiving},
    {"shuts_down_both", sink, shuts_down_both},
    {"closes_with_unread_input", sink | source, closes_with_unread_input},
    {"goes_out_of_scope", sink, goes_out_of_scope},
    {"resets", sink, resets},
    {"is_reset", resetter, is_reset},
    {"is_closed_while_parked", mute | deaf, is_closed_while_parked},
    {"is_canceled_while_parked", mute | deaf, is_canceled_while_parked},
    {"runs_out_of_time", mute, runs_out_of_time},
    {"accepts", 0, accepts, clients<3, 2>},
    {"serves_bytes", 0, serves_bytes, clients<3, 3>},
    {"serves_lines", 0, serves_lines<3, 4>, clients<3, 4>},
    {"serves_twenty_clients", 0, serves_lines<20, 5>, clients<20, 5>, false, true},
    {"has_a_handler_that_throws", 0, has_a_handler_that_throws, clients<3, 1>},
    {"is_removed_midway", 0, is_removed_midway, clients<2, 4>},
    {"limits_its_connections", 0, limits_its_connections, clients<5, 2>},
    {"has_few_descriptors", 0, serves_lines<5, 2>, clients<5, 2>, false, false, 9},
    {"keeps_its_listener_open", 0, keeps_its_listener_open, clients<1, 2>},
    {"uses_a_path", 0, uses_a_path},
    {"uses_an_abstract_name", 0, uses_an_abstract_name},
    {"uses_ipv6", 0, uses_ipv6},
    {"crowds_a_path", 0, crowds_a_path},
    {"uses_a_pair", 0, uses_a_pair},
    {"has_many_streams", 0, has_many_streams},
    {"transfers_both_ways", echo, transfers_both_ways, nullptr, false, true},
    {"wraps_descriptors", 0, wraps_descriptors},
    {"takes_a_listener_over", 0, takes_a_listener_over},
    {"waits_for_descriptors", echo, waits_for_descriptors},
    {"asks_about_everything", echo, asks_about_everything},
    {"shares_a_port", 0, shares_a_port},
    {"sleeps_and_joins", 0, sleeps_and_joins},
    {"parks_and_unparks", 0, parks_and_unparks},
    {"has_many_threads", 0, has_many_threads, nullptr, false, true},
    {"has_locals", 0, has_locals},
    {"is_stopped", 0, is_stopped},
    {"cancels_everybody", mute, cancels_everybody},
    {"is_destroyed_with_threads", 0, is_destroyed_with_threads, nullptr, true},
    {"runs_step_by_step", 0, runs_step_by_step, nullptr, true},
    {"makes_its_loop_with_a_stream", 0, makes_its_loop_with_a_stream, nullptr, true},
    {"sleeps_among_many", 0, sleeps_among_many, nullptr, false, true},
};

}  // namespace torture
