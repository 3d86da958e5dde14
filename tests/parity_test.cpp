// The simulated kernel answers as the real one does: small programs, run on both.
#include "parity.h"

using namespace parity;

namespace {

// Scenes: a socket in each state that it can be in ------------------------------------------------

struct Scene {
    int us = -1;
    int peer = -1;
    int family = AF_INET;
    int listener = -1;
};

Scene connected(Lab& lab, int family) {
    Scene scene;
    scene.family = family;
    scene.listener = lab.listener(family);
    scene.us = lab.call_to(scene.listener, family);
    scene.peer = lab.accepted(scene.listener);
    return scene;
}
Scene accepted(Lab& lab, int family) {
    Scene scene = connected(lab, family);
    std::swap(scene.us, scene.peer);
    return scene;
}
Scene paired(Lab& lab, int family) {
    int ends[2] = {-1, -1};
    (void)lab.system().open_pair(lab.system(), family, SOCK_STREAM, ends);
    return {lab.kept(ends[0]), lab.kept(ends[1]), family};
}
void close_peer(Lab& lab, Scene& scene) {
    lab.close(scene.peer);
    scene.peer = -1;
    lab.settle();
}
void reset_by_peer(Lab& lab, Scene& scene) {
    lab.linger(scene.peer, 0);
    close_peer(lab, scene);
}
void quietly_shut(Lab& lab, int fd, int how) {
    (void)lab.system().shutdown(lab.system(), fd, how);
    lab.settle();
}
void give(Lab& lab, int from, unsigned size) {
    lab.put(from, size);
    lab.settle();
}

struct State {
    const char* name;
    bool of_tcp, of_unix;
    Scene (*make)(Lab&, int family);
};

const State states[] = {
    {"that is fresh", true, true,
     [](Lab& lab, int family) { return Scene{lab.roomy_socket(family), -1, family}; }},
    {"that is bound", true, true,
     [](Lab& lab, int family) { return Scene{lab.bound(family), -1, family}; }},
    {"that listens", true, true,
     [](Lab& lab, int family) { return Scene{lab.listener(family), -1, family}; }},
    {"that listens and was called", true, true,
     [](Lab& lab, int family) {
         Scene scene{lab.listener(family), -1, family};
         scene.peer = lab.call_to(scene.us, family);
         return scene;
     }},
    {"that listened until it was shut down", true, true,
     [](Lab& lab, int family) {
         Scene scene{lab.listener(family), -1, family};
         quietly_shut(lab, scene.us, SHUT_RDWR);
         return scene;
     }},
    {"that was called and then shut down", true, true,
     [](Lab& lab, int family) {
         Scene scene{lab.listener(family), -1, family};
         scene.peer = lab.call_to(scene.us, family);
         quietly_shut(lab, scene.us, SHUT_RDWR);
         return scene;
     }},
    {"that is connecting", true, false,
     [](Lab& lab, int family) {
         int full = lab.listener(family, 0);
         (void)lab.call_to(full, family);
         return Scene{lab.call_to(full, family), -1, family};
     }},
    {"that was refused", true, false,
     [](Lab& lab, int family) {
         return Scene{lab.call_to(lab.bound(family), family), -1, family};
     }},
    {"that was refused and has told so", true, false,
     [](Lab& lab, int family) {
         Scene scene{lab.call_to(lab.bound(family), family), -1, family};
         lab.pending_error(scene.us);
         return scene;
     }},
    {"that is connected", true, true, connected},
    {"that was accepted", true, true, accepted},
    {"that is half of a pair", false, true, paired},
    {"that has something to read", true, true,
     [](Lab& lab, int family) {
         Scene scene = connected(lab, family);
         give(lab, scene.peer, 5);
         return scene;
     }},
    {"whose peer has shut down writing", true, true,
     [](Lab& lab, int family) {
         Scene scene = connected(lab, family);
         quietly_shut(lab, scene.peer, SHUT_WR);
         return scene;
     }},
    {"whose peer has shut down reading", true, true,
     [](Lab& lab, int family) {
         Scene scene = connected(lab, family);
         quietly_shut(lab, scene.peer, SHUT_RD);
         return scene;
     }},
    {"whose peer has closed", true, true,
     [](Lab& lab, int family) {
         Scene scene = connected(lab, family);
         close_peer(lab, scene);
         return scene;
     }},
    {"whose peer has sent and closed", true, true,
     [](Lab& lab, int family) {
         Scene scene = connected(lab, family);
         give(lab, scene.peer, 5);
         close_peer(lab, scene);
         return scene;
     }},
    {"whose peer has reset", true, true,
     [](Lab& lab, int family) {
         Scene scene = connected(lab, family);
         reset_by_peer(lab, scene);
         return scene;
     }},
    {"whose peer has sent and reset", true, true,
     [](Lab& lab, int family) {
         Scene scene = connected(lab, family);
         give(lab, scene.peer, 5);
         reset_by_peer(lab, scene);
         return scene;
     }},
    {"whose peer has reset and it has told so", true, false,
     [](Lab& lab, int family) {
         Scene scene = connected(lab, family);
         reset_by_peer(lab, scene);
         lab.pending_error(scene.us);
         return scene;
     }},
    {"whose peer has closed with our bytes unread", true, true,
     [](Lab& lab, int family) {
         Scene scene = connected(lab, family);
         give(lab, scene.us, 5);
         close_peer(lab, scene);
         return scene;
     }},
    {"whose peer has sent, and closed with our bytes unread", true, true,
     [](Lab& lab, int family) {
         Scene scene = connected(lab, family);
         give(lab, scene.us, 5);
         give(lab, scene.peer, 5);
         close_peer(lab, scene);
         return scene;
     }},
    {"that has shut down writing", true, true,
     [](Lab& lab, int family) {
         Scene scene = connected(lab, family);
         quietly_shut(lab, scene.us, SHUT_WR);
         return scene;
     }},
    {"that has shut down reading", true, true,
     [](Lab& lab, int family) {
         Scene scene = connected(lab, family);
         quietly_shut(lab, scene.us, SHUT_RD);
         return scene;
     }},
    {"that has shut down both ways", true, true,
     [](Lab& lab, int family) {
         Scene scene = connected(lab, family);
         quietly_shut(lab, scene.us, SHUT_RDWR);
         return scene;
     }},
    {"both ends of which have shut down writing", true, true,
     [](Lab& lab, int family) {
         Scene scene = connected(lab, family);
         quietly_shut(lab, scene.us, SHUT_WR);
         quietly_shut(lab, scene.peer, SHUT_WR);
         return scene;
     }},
    {"that has ended writing, and whose peer has closed", true, true,
     [](Lab& lab, int family) {
         Scene scene = connected(lab, family);
         quietly_shut(lab, scene.us, SHUT_WR);
         close_peer(lab, scene);
         return scene;
     }},
    {"that nobody has accepted and whose listener closed", true, true,
     [](Lab& lab, int family) {
         int listener = lab.listener(family);
         Scene scene{lab.call_to(listener, family), -1, family};
         lab.close(listener);
         lab.settle();
         return scene;
     }},
    {"that is not open", true, true,
     [](Lab&, int family) { return Scene{nobodys, -1, family}; }},
};

struct Verb {
    const char* name;
    void (*act)(Lab&, Scene&);
};

const Verb verbs[] = {
    {"looking at", [](Lab&, Scene&) {}},
    {"receiving from", [](Lab& lab, Scene& scene) { lab.receive(scene.us, 10); }},
    {"receiving three bytes from", [](Lab& lab, Scene& scene) { lab.receive(scene.us, 3); }},
    {"receiving nothing from", [](Lab& lab, Scene& scene) { lab.receive(scene.us, 0); }},
    {"sending to", [](Lab& lab, Scene& scene) { lab.send(scene.us, 1); }},
    {"sending twice to",
     [](Lab& lab, Scene& scene) {
         lab.send(scene.us, 1);
         lab.send(scene.us, 1);
     }},
    {"sending nothing to", [](Lab& lab, Scene& scene) { lab.send(scene.us, 0); }},
    {"accepting from", [](Lab& lab, Scene& scene) { lab.accept(scene.us); }},
    {"listening on", [](Lab& lab, Scene& scene) { lab.listen(scene.us, 5); }},
    {"binding", [](Lab& lab, Scene& scene) { lab.bind(scene.us, lab.anywhere(scene.family)); }},
    {"connecting",
     [](Lab& lab, Scene& scene) {
         int listener = lab.listener(scene.family);
         lab.connect(scene.us, lab.name_of(listener));
         lab.accept(listener);
     }},
    {"connecting again and again",
     [](Lab& lab, Scene& scene) {
         int listener = lab.listener(scene.family);
         for (int i = 0; i < 4; ++i) lab.connect(scene.us, lab.name_of(listener));
     }},
    {"connecting to nobody",
     [](Lab& lab, Scene& scene) {
         lab.connect(scene.us, lab.name_of(lab.bound(scene.family)));
         lab.look_at("we", scene.us);
         lab.pending_error(scene.us);
     }},
    {"shutting down reading on",
     [](Lab& lab, Scene& scene) { lab.shutdown(scene.us, SHUT_RD); }},
    {"shutting down writing on",
     [](Lab& lab, Scene& scene) { lab.shutdown(scene.us, SHUT_WR); }},
    {"shutting down both ways of",
     [](Lab& lab, Scene& scene) { lab.shutdown(scene.us, SHUT_RDWR); }},
    {"shutting down in no way", [](Lab& lab, Scene& scene) { lab.shutdown(scene.us, 7); }},
    {"asking for the names of",
     [](Lab& lab, Scene& scene) {
         lab.own_name(scene.us);
         lab.peer_name(scene.us);
     }},
    {"asking for the error of", [](Lab& lab, Scene& scene) { lab.pending_error(scene.us); }},
    {"asking whether somebody listens on",
     [](Lab& lab, Scene& scene) { lab.option(scene.us, SOL_SOCKET, SO_ACCEPTCONN); }},
    {"closing",
     [](Lab& lab, Scene& scene) {
         lab.close(scene.us);
         scene.us = -1;
     }},
    {"cutting off",
     [](Lab& lab, Scene& scene) {
         lab.linger(scene.us, 0);
         lab.close(scene.us);
         scene.us = -1;
     }},
};

// What can be seen of both ends afterwards.
void look_around(Lab& lab, const Scene& scene) {
    for (auto [who, fd] : {std::pair{"we", scene.us}, std::pair{"the peer", scene.peer}}) {
        if (fd < 0) continue;
        lab.look_at(who, fd);
        lab.receive(fd, 10);
        lab.pending_error(fd);
        lab.receive(fd, 10);
        lab.look_at(who, fd);
    }
}

Programs calls_in_every_state(int family) {
    Programs programs;
    for (const State& state : states) {
        if (!(family == AF_UNIX ? state.of_unix : state.of_tcp)) continue;
        for (const Verb& verb : verbs) {
            std::string name = std::string(verb.name) + " a " +
                               (family == AF_UNIX ? "UNIX" : "TCP") + " socket " + state.name;
            programs.push_back({name, [&state, &verb, family](Lab& lab) {
                                    Scene scene = state.make(lab, family);
                                    verb.act(lab, scene);
                                    look_around(lab, scene);
                                }});
        }
    }
    return programs;
}

// Endings -----------------------------------------------------------------------------------------

void write_on(Lab& lab, int fd) {
    for (int i = 0; i < 4; ++i) lab.send(fd, 1);
}

Programs endings(int family) {
    struct Ending {
        const char* name;
        void (*end)(Lab&, Scene&);
    };
    static const Ending ends[] = {
        {"closed", close_peer},
        {"reset", reset_by_peer},
        {"ended and reset",
         [](Lab& lab, Scene& scene) {
             quietly_shut(lab, scene.peer, SHUT_WR);
             reset_by_peer(lab, scene);
         }},
        {"only ended", [](Lab& lab, Scene& scene) { quietly_shut(lab, scene.peer, SHUT_WR); }},
        {"closed with our bytes unread",
         [](Lab& lab, Scene& scene) {
             give(lab, scene.us, 1);
             close_peer(lab, scene);
         }},
        {"ended, and closed with our bytes unread",
         [](Lab& lab, Scene& scene) {
             quietly_shut(lab, scene.peer, SHUT_WR);
             give(lab, scene.us, 1);
             close_peer(lab, scene);
         }},
    };
    struct Reaction {
        const char* name;
        void (*react)(Lab&, Scene&);
    };
    static const Reaction reactions[] = {
        {"read until the end", [](Lab& lab, Scene& scene) { lab.read_on(scene.us); }},
        {"write", [](Lab& lab, Scene& scene) { write_on(lab, scene.us); }},
        {"read and write",
         [](Lab& lab, Scene& scene) {
             lab.read_on(scene.us);
             write_on(lab, scene.us);
         }},
        {"write and read",
         [](Lab& lab, Scene& scene) {
             write_on(lab, scene.us);
             lab.read_on(scene.us);
         }},
        {"do nothing", [](Lab&, Scene&) {}},
    };
    Programs programs;
    for (const Ending& ending : ends)
        for (unsigned unread : {0u, 1u, much})
            for (const Reaction& reaction : reactions) {
                std::string name = std::string(family == AF_UNIX ? "UNIX: " : "TCP: ") +
                                   "the peer has sent " + std::to_string(unread) + " and " +
                                   ending.name + "; we " + reaction.name;
                programs.push_back({name, [&ending, unread, &reaction, family](Lab& lab) {
                                        Scene scene = connected(lab, family);
                                        if (unread) give(lab, scene.peer, unread);
                                        ending.end(lab, scene);
                                        reaction.react(lab, scene);
                                        lab.look_at("we", scene.us);
                                        lab.pending_error(scene.us);
                                        lab.read_on(scene.us);
                                        lab.look_at("we", scene.us);
                                        lab.read_on(scene.us);
                                    }});
            }
    return programs;
}

// Options -----------------------------------------------------------------------------------------

struct NamedOption {
    const char* name;
    int level, option;
    bool exact;  // the kernel keeps what it was given
};

const NamedOption options[] = {
    {"SO_KEEPALIVE", SOL_SOCKET, SO_KEEPALIVE, true},
    {"SO_REUSEADDR", SOL_SOCKET, SO_REUSEADDR, true},
    {"SO_REUSEPORT", SOL_SOCKET, SO_REUSEPORT, true},
    {"SO_RCVBUF", SOL_SOCKET, SO_RCVBUF, false},
    {"SO_SNDBUF", SOL_SOCKET, SO_SNDBUF, false},
    {"SO_ERROR", SOL_SOCKET, SO_ERROR, true},
    {"SO_TYPE", SOL_SOCKET, SO_TYPE, true},
    {"SO_ACCEPTCONN", SOL_SOCKET, SO_ACCEPTCONN, true},
    {"SO_LINGER", SOL_SOCKET, SO_LINGER, true},
    {"no option of sockets", SOL_SOCKET, 9999, true},
    {"TCP_NODELAY", IPPROTO_TCP, TCP_NODELAY, true},
    {"TCP_KEEPIDLE", IPPROTO_TCP, TCP_KEEPIDLE, true},
    {"TCP_KEEPINTVL", IPPROTO_TCP, TCP_KEEPINTVL, true},
    {"TCP_KEEPCNT", IPPROTO_TCP, TCP_KEEPCNT, true},
    {"TCP_USER_TIMEOUT", IPPROTO_TCP, TCP_USER_TIMEOUT, true},
    {"TCP_DEFER_ACCEPT", IPPROTO_TCP, TCP_DEFER_ACCEPT, true},
    {"TCP_FASTOPEN", IPPROTO_TCP, TCP_FASTOPEN, false},
    {"TCP_FASTOPEN_CONNECT", IPPROTO_TCP, TCP_FASTOPEN_CONNECT, true},
    {"no option of TCP", IPPROTO_TCP, 9999, true},
    {"IPV6_V6ONLY", IPPROTO_IPV6, IPV6_V6ONLY, true},
    {"no option of IPv6", IPPROTO_IPV6, 9999, true},
    {"an option of no level", 12345, 1, true},
};

const char* family_name(int family) {
    return family == AF_UNIX ? "UNIX" : family == AF_INET ? "IPv4" : "IPv6";
}

void try_option(Lab& lab, const NamedOption& option, int fd) {
    const System& system = lab.system();
    auto show = [&](socklen_t room) {
        if (option.exact) lab.option(fd, option.level, option.option, room);
    };
    show(sizeof(linger));
    for (int value : {1, 0, -1, 5, 127, 128, 32767, 32768, 1 << 20}) {
        lab.say("set to %d", value);
        lab.said("set", lab.set(fd, option.level, option.option, value));
        show(sizeof(linger));
    }
    lab.say("a pair");
    int pair[2] = {1, 3};
    lab.said("set", system.set_option(system, fd, option.level, option.option, pair, sizeof pair));
    show(sizeof pair);
    lab.say("other sizes");
    for (socklen_t size : {0u, 1u, 3u}) {
        lab.said("set", system.set_option(system, fd, option.level, option.option, pair, size));
        show(size);
    }
}

Programs options_of(int family) {
    struct Kind {
        const char* name;
        int (*make)(Lab&, int family);
    };
    static const Kind kinds[] = {
        {"fresh", [](Lab& lab, int of) { return lab.socket(of); }},
        {"listening", [](Lab& lab, int of) { return lab.listener(of); }},
        {"connected", [](Lab& lab, int of) { return connected(lab, of).us; }},
    };
    Programs programs;
    for (const Kind& kind : kinds)
        for (const NamedOption& option : options) {
            std::string name = std::string(option.name) + " of a " + kind.name + " socket, " +
                               family_name(family);
            programs.push_back({name, [&kind, &option, family](Lab& lab) {
                                    try_option(lab, option, kind.make(lab, family));
                                }});
        }
    return programs;
}

// What an accepted connection has from its listener, and when it got that.
Programs inherited_options() {
    Programs programs;
    for (const NamedOption& option : options) {
        if (option.level == IPPROTO_IPV6 || !option.exact || option.option > 9000) continue;
        if (option.level != SOL_SOCKET && option.level != IPPROTO_TCP) continue;
        for (bool late : {false, true}) {
            std::string name = std::string(option.name) + " set on a listener " +
                               (late ? "after" : "before") + " a connection came";
            programs.push_back({name, [&option, late](Lab& lab) {
                                    int listener = lab.listener(AF_INET);
                                    auto set = [&] {
                                        int pair[2] = {1, 3};
                                        lab.said("set", lab.system().set_option(
                                                            lab.system(), listener, option.level,
                                                            option.option, pair, sizeof pair));
                                    };
                                    if (!late) set();
                                    int caller = lab.call_to(listener, AF_INET);
                                    lab.put(caller, 1);
                                    if (late) set();
                                    int child = lab.accepted(listener);
                                    lab.option(child, option.level, option.option, 8);
                                }});
        }
    }
    return programs;
}

// Connecting --------------------------------------------------------------------------------------

// Calls an address of a listener's port, and tells how each end is named.
void call_and_name(Lab& lab, int listener, int caller, const Where& where) {
    lab.connect(caller, where);
    lab.look_at("the caller", caller);
    lab.own_name(caller);
    lab.peer_name(caller);
    int child = lab.accept(listener);
    if (child >= 0) {
        lab.own_name(child);
        lab.peer_name(child);
    }
    lab.pending_error(caller);
}

int listen_at(Lab& lab, int family, const Where& where, bool v6only = false) {
    int fd = lab.socket(family);
    if (v6only) lab.set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    lab.bind(fd, where);
    lab.listen(fd, 4);
    return fd;
}

Programs connects_over_tcp() {
    Programs programs{
        {"to itself",
         [](Lab& lab) {
             int fd = lab.bound(AF_INET);
             lab.connect(fd, lab.name_of(fd));
             lab.look_at("it", fd);
             lab.peer_name(fd);
             lab.send(fd, 3);
             lab.receive(fd, 5);
             lab.shutdown(fd, SHUT_WR);
             lab.receive(fd, 5);
             lab.look_at("it", fd);
         }},
        {"twice while the first is under way",
         [](Lab& lab) {
             int full = lab.listener(AF_INET, 0);
             (void)lab.call_to(full, AF_INET);
             int fd = lab.call_to(full, AF_INET);
             lab.look_at("it", fd);
             lab.connect(fd, lab.name_of(full));
             lab.connect(fd, lab.name_of(lab.listener(AF_INET)));
         }},
        {"with the backlog full, until there is room",
         [](Lab& lab) {
             int full = lab.listener(AF_INET, 0);
             (void)lab.call_to(full, AF_INET);
             int fd = lab.call_to(full, AF_INET);
             lab.look_at("it", fd);
             lab.accept(full);
             lab.await(fd, PollEvent::writable);
             lab.look_at("it", fd);
             lab.accept(full);
             lab.accept(full);
         }},
        {"backlogs of 0 to 3 hold one more than that",
         [](Lab& lab) {
             for (int backlog = 0; backlog < 4; ++backlog) {
                 int listener = lab.listener(AF_INET, backlog);
                 for (int i = 0; i < 5; ++i)
                     lab.look_at("caller", lab.call_to(listener, AF_INET));
             }
         }},
        {"a backlog below zero holds many",
         [](Lab& lab) {
             int listener = lab.listener(AF_INET, -1);
             for (int i = 0; i < 20; ++i) lab.look_at("caller", lab.call_to(listener, AF_INET));
         }},
        {"listening again with another backlog",
         [](Lab& lab) {
             int listener = lab.listener(AF_INET, 0);
             lab.listen(listener, 2);
             for (int i = 0; i < 5; ++i) lab.look_at("caller", lab.call_to(listener, AF_INET));
         }},
        {"refused, and then to somebody who listens",
         [](Lab& lab) {
             int fd = lab.call_to(lab.bound(AF_INET), AF_INET);
             int listener = lab.listener(AF_INET);
             for (int i = 0; i < 4; ++i) {
                 lab.connect(fd, lab.name_of(listener));
                 lab.look_at("it", fd);
             }
             lab.accept(listener);
         }},
        {"refused and told, and then to somebody who listens",
         [](Lab& lab) {
             int fd = lab.call_to(lab.bound(AF_INET), AF_INET);
             lab.pending_error(fd);
             int listener = lab.listener(AF_INET);
             for (int i = 0; i < 4; ++i) {
                 lab.connect(fd, lab.name_of(listener));
                 lab.look_at("it", fd);
             }
             lab.accept(listener);
         }},
        {"to a listener that has closed",
         [](Lab& lab) {
             int listener = lab.listener(AF_INET);
             Where where = lab.name_of(listener);
             int fd = lab.socket(AF_INET);
             lab.bind(lab.socket(AF_INET), ipv4(0));
             lab.close(listener);
             lab.connect(fd, where);
             lab.look_at("it", fd);
             lab.pending_error(fd);
         }},
        {"to a listener that was shut down and listens again",
         [](Lab& lab) {
             int listener = lab.listener(AF_INET);
             lab.shutdown(listener, SHUT_RDWR);
             lab.own_name(listener);
             lab.listen(listener, 3);
             lab.own_name(listener);
             lab.call_to(listener, AF_INET);
             lab.accept(listener);
         }},
        {"two calls are accepted in their order",
         [](Lab& lab) {
             int listener = lab.listener(AF_INET);
             lab.own_name(lab.call_to(listener, AF_INET));
             lab.own_name(lab.call_to(listener, AF_INET));
             lab.accept(listener);
             lab.accept(listener);
             lab.accept(listener);
         }},
        {"one that hung up before it was accepted",
         [](Lab& lab) {
             int listener = lab.listener(AF_INET);
             int fd = lab.call_to(listener, AF_INET);
             lab.put(fd, 3);
             lab.close(fd);
             int child = lab.accepted(listener);
             lab.look_at("it", child);
             lab.read_on(child);
         }},
        {"one that was reset before it was accepted",
         [](Lab& lab) {
             int listener = lab.listener(AF_INET);
             int fd = lab.call_to(listener, AF_INET);
             lab.put(fd, 3);
             lab.linger(fd, 0);
             lab.close(fd);
             lab.look_at("the listener", listener);
             int child = lab.accept(listener);
             if (child < 0) return;
             lab.look_at("it", child);
             lab.peer_name(child);
             lab.read_on(child);
             lab.read_on(child);
         }},
        {"bytes sent before it was accepted",
         [](Lab& lab) {
             int listener = lab.listener(AF_INET);
             int fd = lab.call_to(listener, AF_INET);
             lab.put(fd, much);
             lab.read_on(lab.accepted(listener));
         }},
    };
    for (const char* text : {"127.0.0.1", "127.0.0.2", "0.0.0.0"})
        for (const char* at : {"127.0.0.1", "127.0.0.2", "0.0.0.0"})
            programs.push_back({std::string("to ") + text + " where somebody listens at " + at,
                                [text, at](Lab& lab) {
                                    int listener = listen_at(lab, AF_INET, ipv4(0, at));
                                    int port = port_of(lab.name_of(listener));
                                    call_and_name(lab, listener, lab.socket(AF_INET),
                                                  ipv4(port, text));
                                }});
    for (const char* text : {"127.0.0.1", "127.0.0.2", "0.0.0.0"})
        programs.push_back({std::string("from a socket bound to ") + text, [text](Lab& lab) {
                                int listener = listen_at(lab, AF_INET, ipv4(0, "0.0.0.0"));
                                int fd = lab.socket(AF_INET);
                                lab.bind(fd, ipv4(0, text));
                                lab.own_name(fd);
                                call_and_name(lab, listener, fd,
                                              ipv4(port_of(lab.name_of(listener))));
                            }});
    programs.push_back({"to port 0", [](Lab& lab) {
                            int fd = lab.socket(AF_INET);
                            lab.connect(fd, ipv4(0));
                            lab.look_at("it", fd);
                            lab.pending_error(fd);
                        }});
    for (socklen_t size : {0u, 1u, 2u, 4u, 8u, 15u, 17u, 110u, 120u, 128u, 129u})
        programs.push_back({"an IPv4 address of " + std::to_string(size) + " bytes",
                            [size](Lab& lab) {
                                int listener = lab.listener(AF_INET);
                                int fd = lab.socket(AF_INET);
                                lab.bind(lab.socket(AF_INET), cut_to(ipv4(0), size));
                                lab.connect(fd, cut_to(lab.name_of(listener), size));
                                lab.look_at("it", fd);
                            }});
    for (int family : {AF_INET, AF_UNIX})
        for (int of : {AF_INET, AF_INET6, AF_UNIX, 77}) {
            std::string name = std::string("an address of family ") + std::to_string(of) +
                               " for a socket of " + family_name(family);
            if (family == of) continue;
            programs.push_back({name, [family, of](Lab& lab) {
                                    Where where = of == AF_UNIX    ? unix_name(lab.new_path())
                                                  : of == AF_INET6 ? ipv6(1)
                                                                   : ipv4(1);
                                    where.bytes.ss_family = sa_family_t(of);
                                    lab.connect(lab.socket(family), where);
                                    lab.bind(lab.socket(family), where);
                                }});
        }
    return programs;
}

Programs connects_over_ipv6() {
    Programs programs;
    struct Try {
        const char* at;
        bool v6only;
        const char* to;
    };
    static const Try tries[] = {
        {"::", false, "::1"},  {"::", true, "::1"},  {"::1", false, "::1"},
        {"::", false, "::"},   {"::1", false, "::"}, {"::1", false, "::ffff:127.0.0.1"},
        {"::", false, "::ffff:127.0.0.1"},           {"::", true, "::ffff:127.0.0.1"},
        {"::ffff:127.0.0.1", false, "::ffff:127.0.0.1"},
        {"::ffff:0.0.0.0", false, "::ffff:127.0.0.1"},
        {"::ffff:127.0.0.1", false, "::1"},
    };
    for (const Try& each : tries)
        programs.push_back({std::string("to ") + each.to + " where somebody listens at " + each.at +
                                (each.v6only ? " alone" : ""),
                            [each](Lab& lab) {
                                int listener =
                                    listen_at(lab, AF_INET6, ipv6(0, each.at), each.v6only);
                                int port = port_of(lab.name_of(listener));
                                call_and_name(lab, listener, lab.socket(AF_INET6),
                                              ipv6(port, each.to));
                            }});
    for (const char* at : {"::", "::1", "::ffff:127.0.0.1"})
        for (bool v6only : {false, true})
            programs.push_back({std::string("IPv4 to where somebody listens at ") + at +
                                    (v6only ? " alone" : ""),
                                [at, v6only](Lab& lab) {
                                    int listener = listen_at(lab, AF_INET6, ipv6(0, at), v6only);
                                    int port = port_of(lab.name_of(listener));
                                    if (port == 0) return;
                                    call_and_name(lab, listener, lab.socket(AF_INET), ipv4(port));
                                }});
    for (const char* at : {"0.0.0.0", "127.0.0.1"})
        for (const char* to : {"::1", "::", "::ffff:127.0.0.1"})
            programs.push_back({std::string("IPv6 to ") + to + " where somebody listens at " + at,
                                [at, to](Lab& lab) {
                                    int listener = listen_at(lab, AF_INET, ipv4(0, at));
                                    int port = port_of(lab.name_of(listener));
                                    call_and_name(lab, listener, lab.socket(AF_INET6),
                                                  ipv6(port, to));
                                }});
    for (socklen_t size : {0u, 1u, 2u, 8u, 16u, 23u, 24u, 27u, 29u, 128u, 129u})
        programs.push_back({"an IPv6 address of " + std::to_string(size) + " bytes",
                            [size](Lab& lab) {
                                int listener = lab.listener(AF_INET6);
                                lab.bind(lab.socket(AF_INET6), cut_to(ipv6(0), size));
                                Where where = cut_to(lab.name_of(listener), size);
                                lab.connect(lab.socket(AF_INET6), where);
                            }});
    programs.push_back({"an IPv4 address for an IPv6 socket", [](Lab& lab) {
                            lab.connect(lab.socket(AF_INET6), ipv4(1));
                            lab.bind(lab.socket(AF_INET6), ipv4(0));
                            Where longer = ipv4(1);
                            longer.size = sizeof(sockaddr_in6);
                            lab.connect(lab.socket(AF_INET6), longer);
                            lab.bind(lab.socket(AF_INET6), longer);
                        }});
    return programs;
}

Programs connects_over_unix() {
    Programs programs{
        {"a path that is missing",
         [](Lab& lab) { lab.connect(lab.socket(AF_UNIX), unix_name(lab.new_path())); }},
        {"a folder that is missing",
         [](Lab& lab) { lab.connect(lab.socket(AF_UNIX), unix_name("/tmp/no.such.folder/x")); }},
        {"a path that nobody listens at",
         [](Lab& lab) { lab.connect(lab.socket(AF_UNIX), lab.name_of(lab.bound(AF_UNIX))); }},
        {"a path whose listener has closed",
         [](Lab& lab) {
             int listener = lab.listener(AF_UNIX);
             Where where = lab.name_of(listener);
             lab.close(listener);
             lab.connect(lab.socket(AF_UNIX), where);
             lab.bind(lab.socket(AF_UNIX), where);
         }},
        {"a path that was removed",
         [](Lab& lab) {
             std::string path = lab.new_path();
             int listener = listen_at(lab, AF_UNIX, unix_name(path));
             int caller = lab.socket(AF_UNIX);
             lab.connect(caller, unix_name(path));
             lab.said("unlink", lab.system().unlink(lab.system(), path.c_str()));
             lab.said("unlink", lab.system().unlink(lab.system(), path.c_str()));
             lab.connect(lab.socket(AF_UNIX), unix_name(path));
             lab.own_name(listener);
             lab.peer_name(caller);
             lab.accept(listener);
             listen_at(lab, AF_UNIX, unix_name(path));
             lab.connect(lab.socket(AF_UNIX), unix_name(path));
             lab.accept(listener);
         }},
        {"a listener that was shut down",
         [](Lab& lab) {
             for (int how : {SHUT_RD, SHUT_WR, SHUT_RDWR}) {
                 int listener = lab.listener(AF_UNIX);
                 lab.shutdown(listener, how);
                 lab.connect(lab.socket(AF_UNIX), lab.name_of(listener));
                 lab.accept(listener);
                 lab.look_at("the listener", listener);
                 lab.listen(listener, 2);
                 lab.connect(lab.socket(AF_UNIX), lab.name_of(listener));
             }
         }},
        {"a backlog that is full",
         [](Lab& lab) {
             for (int backlog = 0; backlog < 3; ++backlog) {
                 int listener = lab.listener(AF_UNIX, backlog);
                 Where where = lab.name_of(listener);
                 int last = -1;
                 for (int i = 0; i < 5; ++i) lab.connect(last = lab.socket(AF_UNIX), where);
                 lab.look_at("the last", last);
                 lab.accept(listener);
                 lab.connect(last, where);
                 lab.look_at("the last", last);
             }
         }},
        {"a backlog below zero",
         [](Lab& lab) {
             int listener = lab.listener(AF_UNIX, -1);
             for (int i = 0; i < 20; ++i) lab.connect(lab.socket(AF_UNIX), lab.name_of(listener));
         }},
        {"an abstract name",
         [](Lab& lab) {
             std::string name = lab.new_abstract_name();
             lab.connect(lab.socket(AF_UNIX), unix_name(name));
             int listener = listen_at(lab, AF_UNIX, unix_name(name));
             call_and_name(lab, listener, lab.socket(AF_UNIX), unix_name(name));
             lab.bind(lab.socket(AF_UNIX), unix_name(name));
             name += '\0';
             lab.connect(lab.socket(AF_UNIX), unix_name(name));
             name.pop_back();
             lab.close(listener);
             lab.connect(lab.socket(AF_UNIX), unix_name(name));
             lab.bind(lab.socket(AF_UNIX), unix_name(name));
         }},
        {"names of a path's ends",
         [](Lab& lab) {
             int listener = lab.listener(AF_UNIX);
             call_and_name(lab, listener, lab.socket(AF_UNIX), lab.name_of(listener));
         }},
        {"names of ends that both have one",
         [](Lab& lab) {
             int listener = lab.listener(AF_UNIX);
             call_and_name(lab, listener, lab.bound(AF_UNIX), lab.name_of(listener));
         }},
        {"names of ends that have abstract ones",
         [](Lab& lab) {
             int listener = listen_at(lab, AF_UNIX, unix_name(lab.new_abstract_name()));
             int fd = lab.socket(AF_UNIX);
             lab.bind(fd, unix_name(lab.new_abstract_name()));
             call_and_name(lab, listener, fd, lab.name_of(listener));
         }},
        {"names of a pair",
         [](Lab& lab) {
             Scene scene = paired(lab, AF_UNIX);
             lab.own_name(scene.us);
             lab.peer_name(scene.us);
             lab.bind(scene.us, unix_name(lab.new_path()));
             lab.peer_name(scene.peer);
         }},
        {"bound after it was connected",
         [](Lab& lab) {
             Scene scene = connected(lab, AF_UNIX);
             lab.bind(scene.us, unix_name(lab.new_path()));
             lab.own_name(scene.us);
             lab.peer_name(scene.peer);
         }},
        {"to itself",
         [](Lab& lab) {
             int fd = lab.bound(AF_UNIX);
             lab.connect(fd, lab.name_of(fd));
             lab.listen(fd, 2);
             lab.connect(fd, lab.name_of(fd));
         }},
        {"paths with and without their zero are the same",
         [](Lab& lab) {
             std::string path = lab.new_path();
             Where where = unix_name(path), bare = cut_to(where, where.size - 1);
             int listener = listen_at(lab, AF_UNIX, bare);
             lab.own_name(listener);
             lab.connect(lab.socket(AF_UNIX), where);
             lab.connect(lab.socket(AF_UNIX), bare);
             lab.bind(lab.socket(AF_UNIX), where);
         }},
        {"paths end at their first zero",
         [](Lab& lab) {
             std::string path = lab.new_path();
             int listener = listen_at(lab, AF_UNIX, unix_name(path + std::string("\0more", 5)));
             lab.own_name(listener);
             lab.connect(lab.socket(AF_UNIX), unix_name(path));
         }},
        {"two bytes for a name: any",
         [](Lab& lab) {
             Where nothing = cut_to(unix_name("x"), sizeof(sa_family_t));
             int fd = lab.socket(AF_UNIX);
             lab.bind(fd, nothing);
             lab.own_name(fd);
             lab.bind(fd, nothing);
             lab.bind(fd, unix_name(lab.new_path()));
             lab.connect(lab.socket(AF_UNIX), nothing);
         }},
    };
    for (unsigned length : {1u, 90u, 100u, 106u, 107u, 108u})
        programs.push_back({"a path of " + std::to_string(length) + " bytes", [length](Lab& lab) {
                                std::string path = lab.new_path();
                                if (length < path.size()) path = "/tmp/no.such.folder/x";
                                while (path.size() < length) path += 'x';
                                Where where = unix_name(path);
                                if (where.size > sizeof(sockaddr_un))
                                    where.size = sizeof(sockaddr_un);
                                int fd = lab.socket(AF_UNIX);
                                int result = lab.bind(fd, where);
                                lab.connect(lab.socket(AF_UNIX), where);
                                if (result) return;
                                lab.listen(fd, 1);
                                lab.connect(lab.socket(AF_UNIX), where);
                                lab.say("name of %u", unsigned(lab.name_of(fd).size - path.size()));
                                (void)lab.system().unlink(lab.system(), path.c_str());
                            }});
    for (socklen_t size : {0u, 1u, 111u, 128u, 129u})
        programs.push_back({"a UNIX address of " + std::to_string(size) + " bytes",
                            [size](Lab& lab) {
                                Where where = unix_name(lab.new_path());
                                lab.connect(lab.socket(AF_UNIX), cut_to(where, size));
                                lab.bind(lab.socket(AF_UNIX), cut_to(where, size));
                            }});
    return programs;
}

// Binding -----------------------------------------------------------------------------------------

struct Politeness {
    const char* name;
    int first, second;  // the option set on each; 0: none
};

constexpr Politeness politeness[] = {
    {"", 0, 0},
    {", both SO_REUSEADDR", SO_REUSEADDR, SO_REUSEADDR},
    {", the second SO_REUSEADDR", 0, SO_REUSEADDR},
    {", both SO_REUSEPORT", SO_REUSEPORT, SO_REUSEPORT},
    {", the second SO_REUSEPORT", 0, SO_REUSEPORT},
    {", SO_REUSEADDR and SO_REUSEPORT", SO_REUSEADDR, SO_REUSEPORT},
};

int bind_and_listen(Lab& lab, int option, Where where, bool v6only, bool listening) {
    int fd = lab.socket(where.bytes.ss_family);
    if (option) lab.set(fd, SOL_SOCKET, option, 1);
    if (v6only) lab.set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    int result = lab.bind(fd, where);
    if (!result && listening) lab.listen(fd, 3);
    return fd;
}

Programs binds_of_one_port() {
    Programs programs;
    for (const char* first : {"0.0.0.0", "127.0.0.1", "127.0.0.2"})
        for (const char* second : {"0.0.0.0", "127.0.0.1"})
            for (const Politeness& polite : politeness)
                for (bool listening : {false, true}) {
                    std::string name = std::string(second) + " after " + first +
                                       (listening ? " that listens" : "") + polite.name;
                    programs.push_back({name, [first, second, &polite, listening](Lab& lab) {
                                            int one = bind_and_listen(lab, polite.first,
                                                                      ipv4(0, first), false,
                                                                      listening);
                                            int port = port_of(lab.name_of(one));
                                            bind_and_listen(lab, polite.second, ipv4(port, second),
                                                            false, true);
                                            if (!listening) lab.listen(one, 3);
                                        }});
                }
    return programs;
}

Programs binds_of_both_families() {
    struct Address {
        const char* text;
        bool v6only;
        Where at(int port) const { return strchr(text, ':') ? ipv6(port, text) : ipv4(port, text); }
    };
    static const Address addresses[] = {{"0.0.0.0", false}, {"127.0.0.1", false}, {"::", false},
                                        {"::", true},       {"::1", false},
                                        {"::ffff:127.0.0.1", false}};
    Programs programs;
    for (const Address& first : addresses)
        for (const Address& second : addresses)
            for (int option : {0, SO_REUSEADDR}) {
                std::string name = std::string(second.text) + (second.v6only ? " alone" : "") +
                                   " after " + first.text + (first.v6only ? " alone" : "") +
                                   (option ? ", both SO_REUSEADDR" : "");
                programs.push_back({name, [&first, &second, option](Lab& lab) {
                                        int one = bind_and_listen(lab, option, first.at(0),
                                                                  first.v6only, true);
                                        int port = port_of(lab.name_of(one));
                                        bind_and_listen(lab, option, second.at(port), second.v6only,
                                                        true);
                                    }});
            }
    return programs;
}

// Every call that gives a name, with less room than the name needs.
void cut_names(Lab& lab, int family, socklen_t room) {
    const System& system = lab.system();
    int listener = lab.listener(family);
    int caller = lab.call_to(listener, family);
    auto ask = [&](auto call, int fd) {
        Where where;
        where.size = room;
        int result = call(system, fd, where.raw(), &where.size);
        lab.said("name", result < 0 ? result : 0);
        // Paths are as long as this process's number.
        if (family != AF_UNIX || call == system.accept) lab.say("  size %u", unsigned(where.size));
        lab.say("  family %d", int(where.bytes.ss_family));
        return result;
    };
    ask(system.get_socket_name, listener);
    ask(system.get_peer_name, caller);
    lab.kept(ask(system.accept, listener));
}

Programs binds_of_other_kinds() {
    Programs programs{
        {"an address of somebody else's",
         [](Lab& lab) { lab.bind(lab.socket(AF_INET), ipv4(0, "192.0.2.1")); }},
        {"twice",
         [](Lab& lab) {
             int fd = lab.bound(AF_INET);
             lab.bind(fd, ipv4(0));
             lab.bind(fd, lab.name_of(fd));
         }},
        {"a path twice",
         [](Lab& lab) {
             Where where = unix_name(lab.new_path());
             int fd = lab.socket(AF_UNIX);
             lab.bind(fd, where);
             lab.bind(lab.socket(AF_UNIX), where);
             lab.bind(fd, unix_name(lab.new_path()));
         }},
        {"a path in a folder that is missing",
         [](Lab& lab) { lab.bind(lab.socket(AF_UNIX), unix_name("/tmp/no.such.folder/x")); }},
        {"a port whose socket has closed",
         [](Lab& lab) {
             int fd = lab.listener(AF_INET);
             Where where = lab.name_of(fd);
             lab.close(fd);
             lab.bind(lab.socket(AF_INET), where);
         }},
        {"a port whose listener was shut down",
         [](Lab& lab) {
             int fd = lab.listener(AF_INET);
             lab.shutdown(fd, SHUT_RDWR);
             lab.bind(lab.socket(AF_INET), lab.name_of(fd));
         }},
        {"listening without a name",
         [](Lab& lab) {
             int fd = lab.socket(AF_INET);
             lab.listen(fd, 3);
             lab.own_name(fd);
             int other = lab.socket(AF_UNIX);
             lab.listen(other, 3);
         }},
        {"the port of a listener with an accepted connection, after it closed",
         [](Lab& lab) {
             for (int option : {0, SO_REUSEADDR}) {
                 Scene scene = connected(lab, AF_INET);
                 Where where = lab.name_of(scene.listener);
                 lab.close(scene.listener);
                 int fd = lab.socket(AF_INET);
                 if (option) lab.set(fd, SOL_SOCKET, option, 1);
                 lab.bind(fd, where);
                 lab.listen(fd, 2);
             }
         }},
    };
    // Who ends first keeps the port for a minute, and lets it be bound by those who say so.
    for (bool server_first : {false, true})
        for (int before : {0, SO_REUSEADDR})
            for (int after : {0, SO_REUSEADDR, SO_REUSEPORT}) {
                // The simulated kernel has forgotten what was said before; see the quiet ports.
                if (server_first && !before && after == SO_REUSEADDR) continue;
                std::string name = std::string("the port of a connection that the ") +
                                   (server_first ? "server" : "client") + " ended, option " +
                                   std::to_string(before) + " then " + std::to_string(after);
                programs.push_back({name, [=](Lab& lab) {
                    int listener = bind_and_listen(lab, before, ipv4(0), false, true);
                    Where where = lab.name_of(listener);
                    int caller = lab.call_to(listener, AF_INET);
                    int child = lab.accepted(listener);
                    lab.close(server_first ? child : caller);
                    lab.settle();
                    lab.close(server_first ? caller : child);
                    lab.settle();
                    lab.close(listener);
                    bind_and_listen(lab, after, where, false, true);
                }});
            }
    struct Kind {
        int family, type, protocol;
    };
    static const Kind kinds[] = {
        {AF_INET, SOCK_STREAM, 0},   {AF_INET, SOCK_STREAM, IPPROTO_TCP},
        {AF_INET, SOCK_STREAM, 17},  {AF_INET, SOCK_STREAM, 200},
        {AF_UNIX, SOCK_STREAM, 0},   {AF_UNIX, SOCK_STREAM, IPPROTO_TCP},
        {AF_UNIX, SOCK_STREAM, 200}, {AF_UNIX, SOCK_STREAM, 1},
        {77, SOCK_STREAM, 0},        {AF_INET, 77, 0},
        {AF_UNIX, 77, 0},
    };
    for (const Kind& kind : kinds)
        programs.push_back({"a socket of " + std::to_string(kind.family) + ", " +
                                std::to_string(kind.type) + ", " + std::to_string(kind.protocol),
                            [kind](Lab& lab) {
                                const System& system = lab.system();
                                int fd = lab.kept(system.open_socket(system, kind.family, kind.type,
                                                                     kind.protocol));
                                lab.said("socket", fd < 0 ? fd : 0);
                                if (kind.protocol) return;
                                int ends[2] = {-1, -1};
                                int result = system.open_pair(system, kind.family, kind.type, ends);
                                lab.said("pair", result);
                                lab.kept(ends[0]);
                                lab.kept(ends[1]);
                            }});
    for (int family : {AF_INET, AF_UNIX})
        for (socklen_t room : {0u, 1u, 2u, 4u, 16u})
            programs.push_back({std::string("names cut to ") + std::to_string(room) + ", " +
                                    family_name(family),
                                [=](Lab& lab) { cut_names(lab, family, room); }});
    return programs;
}

// Edges -------------------------------------------------------------------------------------------

constexpr uint32_t readable = PollEvent::readable, writable = PollEvent::writable;
constexpr uint32_t anything = PollEvent::readable | PollEvent::writable | PollEvent::hangup;

Programs edges(int family) {
    Programs programs{
        {"registering tells what is so",
         [=](Lab& lab) {
             Scene scene = connected(lab, family);
             lab.watch(scene.us);
             lab.expect("registered", anything);
             lab.expect_quiet("nothing happened");
         }},
        {"new bytes are told of, read or not",
         [=](Lab& lab) {
             Scene scene = connected(lab, family);
             lab.watch(scene.us);
             lab.expect("registered", anything);
             for (int i = 0; i < 3; ++i) {
                 lab.put(scene.peer, 1);
                 lab.expect("a byte", readable);
                 lab.expect_quiet("nothing happened");
             }
         }},
        {"new bytes are told of after a partial read",
         [=](Lab& lab) {
             Scene scene = connected(lab, family);
             lab.watch(scene.us);
             lab.expect("registered", anything);
             lab.put(scene.peer, 10);
             lab.expect("bytes", readable);
             lab.receive(scene.us, 3);
             lab.expect_quiet("some were read");
             lab.put(scene.peer, 1);
             lab.expect("one more", readable);
             lab.receive(scene.us, 20);
         }},
        {"new bytes are told of after EAGAIN",
         [=](Lab& lab) {
             Scene scene = connected(lab, family);
             lab.watch(scene.us);
             lab.expect("registered", anything);
             for (int i = 0; i < 3; ++i) {
                 lab.put(scene.peer, 10);
                 lab.expect("bytes", readable);
                 lab.receive(scene.us, 10);
                 lab.receive(scene.us, 10);
                 lab.expect_quiet("all were read");
             }
         }},
        {"an end is told of once",
         [=](Lab& lab) {
             Scene scene = connected(lab, family);
             lab.watch(scene.us);
             lab.expect("registered", anything);
             quietly_shut(lab, scene.peer, SHUT_WR);
             lab.expect("the end", anything);
             lab.expect_quiet("nothing happened");
             lab.receive(scene.us, 1);
             lab.expect_quiet("it was read");
         }},
        {"a close is told of",
         [=](Lab& lab) {
             Scene scene = connected(lab, family);
             lab.watch(scene.us);
             lab.expect("registered", anything);
             close_peer(lab, scene);
             lab.expect("closed", anything);
             lab.expect_quiet("nothing happened");
         }},
        {"a reset is told of",
         [=](Lab& lab) {
             Scene scene = connected(lab, family);
             lab.watch(scene.us);
             lab.expect("registered", anything);
             reset_by_peer(lab, scene);
             lab.expect("reset", anything);
             lab.expect_quiet("nothing happened");
         }},
        {"a reset after an end is told of",
         [=](Lab& lab) {
             Scene scene = connected(lab, family);
             lab.watch(scene.us);
             lab.expect("registered", anything);
             quietly_shut(lab, scene.peer, SHUT_WR);
             lab.expect("the end", anything);
             reset_by_peer(lab, scene);
             lab.expect("reset", anything);
         }},
        {"our own shutdown of writing",
         [=](Lab& lab) {
             Scene scene = connected(lab, family);
             lab.watch(scene.us);
             lab.expect("registered", anything);
             lab.shutdown(scene.us, SHUT_WR);
             lab.expect("shut down", anything);
         }},
        {"our own shutdown of reading",
         [=](Lab& lab) {
             Scene scene = connected(lab, family);
             lab.watch(scene.us);
             lab.expect("registered", anything);
             lab.shutdown(scene.us, SHUT_RD);
             lab.expect("shut down", anything);
         }},
        {"our own shutdown of both",
         [=](Lab& lab) {
             Scene scene = connected(lab, family);
             lab.watch(scene.us);
             lab.expect("registered", anything);
             lab.shutdown(scene.us, SHUT_RDWR);
             lab.expect("shut down", anything);
         }},
        {"a full buffer that was drained",
         [=](Lab& lab) {
             Scene scene = connected(lab, family);
             lab.watch(scene.us);
             lab.expect("registered", anything);
             uint64_t size = lab.fill(scene.us);
             (void)lab.told();
             lab.expect_quiet("full");
             lab.drain(scene.peer, size);
             lab.expect("drained", writable);
             lab.send(scene.us, 1);
             lab.receive(scene.peer, 5);
         }},
        {"a full buffer is not writable, and is again",
         [=](Lab& lab) {
             Scene scene = connected(lab, family);
             uint64_t size = lab.fill(scene.us);
             lab.look_at("the writer", scene.us);
             lab.look_at("the reader", scene.peer);
             lab.drain(scene.peer, size);
             lab.look_at("the writer", scene.us);
             lab.look_at("the reader", scene.peer);
         }},
        {"a full buffer of bytes, and then a close",
         [=](Lab& lab) {
             Scene scene = connected(lab, family);
             uint64_t size = lab.fill(scene.us);
             lab.close(scene.us);
             lab.drain(scene.peer, size);
             lab.receive(scene.peer, 5);
             lab.look_at("the reader", scene.peer);
         }},
        {"a full buffer whose reader closes",
         [=](Lab& lab) {
             Scene scene = connected(lab, family);
             lab.watch(scene.us);
             lab.expect("registered", anything);
             (void)lab.fill(scene.us);
             (void)lab.told();
             close_peer(lab, scene);
             lab.expect("closed", anything);
             lab.send(scene.us, 1);
             lab.send(scene.us, 1);
         }},
        {"a full buffer whose reader shuts down reading",
         [=](Lab& lab) {
             if (family != AF_UNIX) return;
             Scene scene = connected(lab, family);
             (void)lab.fill(scene.us);
             quietly_shut(lab, scene.peer, SHUT_RD);
             lab.look_at("the writer", scene.us);
             lab.send(scene.us, 1);
         }},
        {"a listener tells of each call",
         [=](Lab& lab) {
             int listener = lab.listener(family);
             lab.watch(listener);
             lab.expect_quiet("nobody called");
             (void)lab.call_to(listener, family);
             lab.expect("a call", anything);
             lab.expect_quiet("nothing happened");
             (void)lab.call_to(listener, family);
             lab.expect("another", anything);
             lab.accept(listener);
             lab.accept(listener);
             lab.accept(listener);
             lab.expect_quiet("all were accepted");
             (void)lab.call_to(listener, family);
             lab.expect("a third", anything);
         }},
        {"a listener that is shut down",
         [=](Lab& lab) {
             int listener = lab.listener(family);
             lab.watch(listener);
             lab.expect_quiet("nobody called");
             lab.shutdown(listener, SHUT_RDWR);
             lab.expect("shut down", anything);
             lab.accept(listener);
         }},
        {"who connects is told",
         [=](Lab& lab) {
             int listener = lab.listener(family);
             int fd = lab.socket(family);
             lab.watch(fd);
             lab.expect("fresh", anything);
             lab.connect(fd, lab.name_of(listener));
             lab.expect("connected", writable);
             lab.expect_quiet("nothing happened");
             lab.accept(listener);
             lab.expect_quiet("accepted");
         }},
        {"who is refused is told",
         [=](Lab& lab) {
             int nobody = lab.bound(family);
             int fd = lab.socket(family);
             lab.watch(fd);
             lab.expect("fresh", anything);
             if (lab.connect(fd, lab.name_of(nobody)) != -EINPROGRESS) return;
             lab.expect("refused", anything);
             lab.expect_quiet("nothing happened");
         }},
        {"registering twice, and what is not there",
         [=](Lab& lab) {
             Scene scene = connected(lab, family);
             lab.watch(scene.us);
             lab.watch(scene.us);
             lab.unwatch(scene.peer);
             lab.watch(nobodys);
             lab.unwatch(nobodys);
             lab.unwatch(scene.us);
             lab.unwatch(scene.us);
             lab.put(scene.peer, 1);
             lab.expect_quiet("nobody watches");
             lab.watch(scene.us);
             lab.expect("registered again", anything);
         }},
        {"what is closed is not watched any more",
         [=](Lab& lab) {
             Scene scene = connected(lab, family);
             lab.watch(scene.us);
             lab.unwatch(scene.us);
             lab.close(scene.us);
             lab.expect_quiet("closed");
             lab.watch(scene.peer);
             lab.expect("the peer", anything);
         }},
    };
    for (Program& each : programs) each.name = std::string(family_name(family)) + ": " + each.name;
    return programs;
}

// Conversations -----------------------------------------------------------------------------------

// What a number stands for: the same draws for both kernels.
struct Draws {
    uint64_t state;
    explicit Draws(uint64_t number) : state{number * 0x9e3779b97f4a7c15u + 1} {}
    uint32_t operator()(uint32_t n) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return uint32_t(state >> 33) % n;
    }
};

// Both ends of a connection do what a number says, in any order that comes up.
void converse(Lab& lab, int family, uint64_t number) {
    Draws draw{number};
    Scene scene = connected(lab, family);
    for (int step = 0; step < 16; ++step) {
        bool ours = draw(2) == 0;
        int& end = ours ? scene.us : scene.peer;
        if (end < 0) continue;
        lab.say("%s:", ours ? "we" : "the peer");
        uint32_t verb = draw(20);
        if (verb < 5) {
            lab.send(end, 1 + draw(3000));
        } else if (verb < 11) {
            lab.receive(end, 1 + draw(4000));
        } else if (verb < 14) {
            lab.shutdown(end, int(draw(3)));
        } else if (verb < 16) {
            lab.pending_error(end);
        } else if (verb < 17) {
            lab.peer_name(end);
        } else if (verb < 19) {
            lab.look_at("they", end);
        } else {
            if (draw(2)) lab.linger(end, 0);
            lab.close(end);
            lab.say("closed");
            lab.settle();
            end = -1;
        }
    }
    look_around(lab, scene);
}

// A listener, those who call it, and those whom it accepts; some leave before they are.
void crowd(Lab& lab, int family, uint64_t number) {
    Draws draw{number};
    int listener = lab.listener(family, int(draw(4)));
    std::vector<int> people;
    for (int step = 0; step < 24; ++step) {
        uint32_t verb = draw(20);
        size_t who = people.empty() ? 0 : draw(uint32_t(people.size()));
        if (verb < 5) {
            int fd = lab.roomy_socket(family);
            lab.connect(fd, lab.name_of(listener));
            lab.look_at("the caller", fd);
            people.push_back(fd);
        } else if (verb < 9) {
            lab.look_at("the listener", listener);
            int child = lab.accept(listener);
            if (child >= 0) people.push_back(child);
        } else if (people.empty()) {
            continue;
        } else if (verb < 12) {
            lab.send(people[who], 1 + draw(50));
        } else if (verb < 15) {
            lab.receive(people[who], 1 + draw(80));
        } else if (verb < 16) {
            lab.shutdown(people[who], int(draw(3)));
        } else if (verb < 17) {
            lab.look_at("somebody", people[who]);
        } else if (verb < 18) {
            lab.pending_error(people[who]);
        } else {
            if (draw(2)) lab.linger(people[who], 0);
            lab.close(people[who]);
            lab.say("somebody closed");
            lab.settle();
            people.erase(people.begin() + long(who));
        }
    }
    if (draw(2)) lab.close(listener);
    for (int each : people) look_around(lab, {each, -1, family});
}

Programs conversations(int family) {
    Programs programs;
    for (uint64_t number = 0; number < 200; ++number)
        programs.push_back({std::string(family_name(family)) + ": conversation " +
                                std::to_string(number),
                            [=](Lab& lab) { converse(lab, family, number); }});
    for (uint64_t number = 0; number < 200; ++number)
        programs.push_back({std::string(family_name(family)) + ": crowd " + std::to_string(number),
                            [=](Lab& lab) { crowd(lab, family, number); }});
    return programs;
}

// All of it ---------------------------------------------------------------------------------------

Programs both(Programs (*make)(int)) {
    Programs programs = make(AF_INET), others = make(AF_UNIX);
    programs.insert(programs.end(), others.begin(), others.end());
    return programs;
}

bool has_ipv6() {
    int fd = ::socket(AF_INET6, SOCK_STREAM, 0);
    Where where = ipv6(0);
    bool has = fd >= 0 && ::bind(fd, where.raw(), where.size) == 0;
    if (fd >= 0) ::close(fd);
    return has;
}
// A kernel whose table of connections in TIME_WAIT is full, after a test of connection rates for
// instance, forgets the next ones at once: their ports are free at a time when they should not be.
bool remembers_time_wait() {
    long remembered = -1, most = -1;
    char word[64];
    if (FILE* file = fopen("/proc/net/sockstat", "r")) {
        while (remembered < 0 && fscanf(file, "%63s", word) == 1)
            if (strcmp(word, "tw") == 0 && fscanf(file, "%ld", &remembered) != 1) break;
        fclose(file);
    }
    if (FILE* file = fopen("/proc/sys/net/ipv4/tcp_max_tw_buckets", "r")) {
        if (fscanf(file, "%ld", &most) != 1) most = -1;
        fclose(file);
    }
    return remembered < 0 || most < 0 || remembered < most - most / 16;
}
void compare_with_time_wait(const Programs& programs) {
    if (!remembers_time_wait()) test::skip("the kernel's table of TIME_WAIT is full");
    compare(programs);
}
void compare_ipv6(const Programs& programs) {
    if (!has_ipv6()) test::skip("this machine has no IPv6");
    compare(programs);
}

}  // namespace

TEST(every_call_answers_the_same_in_every_state_of_a_tcp_socket) {
    compare(calls_in_every_state(AF_INET));
}
TEST(every_call_answers_the_same_in_every_state_of_a_unix_socket) {
    compare(calls_in_every_state(AF_UNIX));
}
TEST(every_way_to_end_a_tcp_connection_is_told_the_same) { compare(endings(AF_INET)); }
TEST(every_way_to_end_a_unix_connection_is_told_the_same) { compare(endings(AF_UNIX)); }
TEST(options_of_ipv4_sockets_take_the_same_values) { compare(options_of(AF_INET)); }
TEST(options_of_ipv6_sockets_take_the_same_values) { compare_ipv6(options_of(AF_INET6)); }
TEST(options_of_unix_sockets_take_the_same_values) { compare(options_of(AF_UNIX)); }
TEST(accepted_connections_inherit_the_same_options) { compare(inherited_options()); }
TEST(tcp_connects_have_the_same_outcome) { compare(connects_over_tcp()); }
TEST(ipv6_connects_have_the_same_outcome) { compare_ipv6(connects_over_ipv6()); }
TEST(unix_connects_have_the_same_outcome) { compare(connects_over_unix()); }
TEST(one_port_is_bound_twice_by_the_same) { compare(binds_of_one_port()); }
TEST(one_port_of_two_families_is_bound_twice_by_the_same) {
    compare_ipv6(binds_of_both_families());
}
TEST(sockets_and_names_are_made_and_refused_the_same) {
    compare_with_time_wait(binds_of_other_kinds());
}
TEST(random_conversations_go_the_same_way) { compare(both(conversations)); }
TEST(edges_are_told_the_same) { compare(both(edges)); }

TEST(there_are_three_hundred_programs) {
    size_t count = 0;
    for (const Programs& each :
         {both(calls_in_every_state), both(endings), both(options_of), options_of(AF_INET6),
          inherited_options(), connects_over_tcp(), connects_over_ipv6(), connects_over_unix(),
          binds_of_one_port(), binds_of_both_families(), binds_of_other_kinds(),
          both(conversations), both(edges)})
        count += each.size();
    fprintf(stderr, "%zu programs\n", count);
    CHECK(count >= 300);
}
