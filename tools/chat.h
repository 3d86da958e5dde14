// Chat: rooms, and members who hear what is said in theirs.
//
// A member has two threads. Her listener receives her lines, does what they say, and never sends.
// Her speaker alone sends on her stream, so that no two threads meet there; it takes what it sends
// from a queue of hers. To say something in a room is to put it into the queue of everybody there,
// the speaker's own included: that waits for nobody, and all of a room hear the same lines in the
// same order.
//
// Whoever does not read fills the kernel's buffers, then her stream's, where her speaker parks,
// then her queue; when that is full she is dropped, with a word, and nobody has waited for her. So
// is whoever takes nothing for as long as `patience` while there is something for her.
//
// A line is allocated once however many hear it: queues hold counted references.
//
// Invariants:
//  - Nothing here parks but receive(), send(), yield() and a speaker's park(): between them lists
//    and queues are whole.
//  - A member is kept by her two threads, and goes with the last of them.
//  - A room exists as long as somebody is in it; no two members that are linked share a name.
#pragma once

#include <copse/copse.h>

#include <initializer_list>
#include <new>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ChatOptions {
    unsigned line_limit = 512;  // bytes of a line
    unsigned backlog = 256;     // lines that may wait for a member; more: she is dropped
    unsigned buffer = 16384;    // bytes of hers that may wait for the kernel
    copse::Duration idle = copse::never;  // who says nothing for so long is shown the door
    copse::Duration patience = copse::Duration::seconds(10);  // for a member to take something
    void* (*allocate)(size_t) = malloc;  // what it returns is given to free()
};

class Chat {
  public:
    explicit Chat(const ChatOptions& options = {}) : options_{options} {}
    Chat(const Chat&) = delete;
    Chat& operator=(const Chat&) = delete;

    // The handler of a connection: returns when the member has left.
    void serve(copse::Stream& stream) {
        Reference me{admit(stream)};
        if (!me.member) return (void)stream.send("* the server is full; please come again\n");
        listen(*me.member);
        leave(*me.member);
    }

    size_t members() const { return members_; }
    size_t rooms() const { return rooms_; }
    size_t memory() const { return memory_; }  // bytes allocated now
    uint64_t said() const { return said_; }
    uint64_t dropped() const { return dropped_; }  // members, for being slow
    uint64_t refused_names() const { return refused_names_; }
    uint64_t without_memory() const { return without_memory_; }

  private:
    static constexpr size_t name_limit = 24;
    static constexpr unsigned names_at_once = 20;  // that /who tells of

    struct Name {
        char text[name_limit + 1] = {};
        Name() = default;
        explicit Name(std::string_view name) { memcpy(text, name.data(), name.size()); }
        operator std::string_view() const { return text; }
    };

    // One line as it is sent, LF and all; its bytes follow the record.
    struct Line {
        unsigned references;
        unsigned size;
        char* text() { return reinterpret_cast<char*>(this + 1); }
        std::string_view view() { return {text(), size}; }
    };

    struct Room;
    struct Member {
        Member(Chat& of, const Name& called) : chat{of}, name{called} {}
        Chat& chat;
        copse::Stream stream;
        Name name;
        copse::Thread speaker;
        unsigned references = 0;
        bool leaving = false;          // hears no more than what is in her queue
        bool dropped = false;
        copse::Time until;             // of leaving: how long that may take
        Room* room = nullptr;
        Member *next = nullptr, **link = nullptr;                  // of all
        Member *next_in_room = nullptr, **link_in_room = nullptr;  // of the room
        unsigned first = 0, waiting = 0;                           // of the queue, a ring
        Line** queue() { return reinterpret_cast<Line**>(this + 1); }
    };

    struct Room {
        explicit Room(Name called) : name{called} {}
        Name name;
        size_t size = 0;
        Member* members = nullptr;
        Room *next = nullptr, **link = nullptr;
    };

    // What keeps a member: one in each of her threads.
    struct Reference {
        Member* member;
        explicit Reference(Member* m) : member{m} { if (m) ++m->references; }
        Reference(Reference&& other) noexcept : member{other.member} { other.member = nullptr; }
        ~Reference() {
            if (member && --member->references == 0) member->chat.destroy(*member);
        }
    };

    // Memory -------------------------------------------------------------------------------------

    void* allocate(size_t size) {
        void* memory = options_.allocate(size);
        if (memory) memory_ += size;
        else ++without_memory_;
        return memory;
    }
    void release(void* memory, size_t size) {
        memory_ -= size;
        free(memory);
    }
    size_t member_size() const { return sizeof(Member) + options_.backlog * sizeof(Line*); }

    // A line of these pieces; no terminal is told anything but text by it. Null: no memory.
    Line* compose(std::initializer_list<std::string_view> pieces) {
        size_t size = 1;
        for (std::string_view each : pieces) size += each.size();
        void* memory = allocate(sizeof(Line) + size);
        if (!memory) return nullptr;
        auto* line = ::new (memory) Line{1, unsigned(size)};
        char* out = line->text();
        for (std::string_view each : pieces)
            for (char c : each) *out++ = (unsigned char)c < ' ' || c == 127 ? '?' : c;
        *out = '\n';
        return line;
    }
    void drop(Line& line) {
        if (--line.references == 0) release(&line, sizeof(Line) + line.size);
    }

    // Lines there is always memory for.
    template <unsigned size> struct Ready {
        Line line{1, size - 1};  // the reference is its own: nobody frees it
        char text[size];
        explicit Ready(const char (&words)[size]) { memcpy(text, words, size); }
    };

    // Queues -------------------------------------------------------------------------------------

    void put(Member& member, Line& line) {
        if (member.leaving) return;
        if (member.waiting == options_.backlog) return drop_slow(member);
        member.queue()[(member.first + member.waiting++) % options_.backlog] = &line;
        ++line.references;
        (void)member.speaker.unpark();
    }
    Line& take(Member& member) {
        Line& line = *member.queue()[member.first];
        member.first = (member.first + 1) % options_.backlog;
        --member.waiting;
        return line;
    }

    // Her queue gives way to one last line. Her stream ends when that is gone, or after a while,
    // and then her listener tells the others.
    void drop_slow(Member& member) {
        ++dropped_;
        while (member.waiting) drop(take(member));
        put(member, too_slow_.line);
        member.dropped = true;
        end(member);
    }
    void end(Member& member) {
        if (member.leaving) return;
        member.leaving = true;
        member.until = copse::now() + options_.patience;
        (void)member.speaker.unpark();
    }

    void tell(Member& member, std::initializer_list<std::string_view> pieces) {
        Line* line = compose(pieces);
        if (!line) return tell_of_poverty(member);
        put(member, *line);
        drop(*line);
    }
    void tell_of_poverty(Member& member) {
        put(member, out_of_memory_.line);
    }
    // false: there is no memory, and nobody has heard of it.
    bool tell_all(Room& room, std::initializer_list<std::string_view> pieces) {
        Line* line = compose(pieces);
        if (!line) return false;
        put_to_all(room, *line);
        drop(*line);
        return true;
    }
    void put_to_all(Room& room, Line& line) {
        for (Member* each = room.members; each; each = each->next_in_room) put(*each, line);
    }

    // A member's speaker: sends what is in her queue, until she is leaving and has heard it all.
    static void speak(Member& member) {
        Chat& chat = member.chat;
        while (member.waiting || !member.leaving) {
            if (!member.waiting) {
                if (copse::park()) break;
                continue;
            }
            if (member.leaving && copse::now() > member.until) break;
            Line& line = chat.take(member);
            copse::Error error = member.stream.send(line.view()).error;
            chat.drop(line);
            if (error == copse::Error::timeout && !member.leaving) {
                ++chat.dropped_;
                member.dropped = true;
            }
            if (error) break;
        }
        (void)member.stream.close();  // what was sent is still written; her listener hears `closed`
    }

    // Coming and going ---------------------------------------------------------------------------

    // Takes the stream over, unless there is no memory: then it stays where it is.
    Member* admit(copse::Stream& stream) {
        Name name;
        do snprintf(name.text, sizeof name.text, "guest%llu", (unsigned long long)++guests_);
        while (find_member(name));
        Line* welcome =
            compose({"* welcome, ", name,
                     ": /join ROOM, /name NAME, /who, /quit; all else is said in the room"});
        Member* member = welcome ? make_member(stream, name) : nullptr;
        if (member) put(*member, *welcome);
        if (welcome) drop(*welcome);
        return member;
    }
    Member* make_member(copse::Stream& stream, const Name& name) {
        void* memory = allocate(member_size());
        if (!memory) return nullptr;
        auto* member = ::new (memory) Member{*this, name};
        copse::Result<copse::Thread> speaker = copse::addthread(
            {.name = "speaker"}, [mine = Reference{member}] { speak(*mine.member); });
        if (!speaker) return nullptr;  // with the closure the member is gone already
        member->speaker = *speaker;
        member->stream = std::move(stream);
        member->stream.setlimit(options_.line_limit, options_.buffer);
        member->stream.settimeouts(copse::never, options_.patience, options_.idle);
        link(member, members_list_, &Member::next, &Member::link);
        ++members_;
        return member;
    }

    void leave(Member& member) {
        end(member);
        leave_room(member, member.dropped ? " reads too slowly and is gone" : " leaves");
        unlink(&member, &Member::next, &Member::link);
        --members_;
    }

    void destroy(Member& member) {
        while (member.waiting) drop(take(member));
        member.~Member();
        release(&member, member_size());
    }

    void listen(Member& member) {
        bool too_long = false;
        for (;;) {
            auto [line, error] = member.stream.receive("*l");
            if (member.leaving) return;
            if (error == copse::Error::timeout)
                return tell(member, {"* you were silent for too long; goodbye"});
            if (error && error != copse::Error::oversized) return;
            if (error) {
                too_long = true;  // the rest of it is yet to come
            } else if (too_long) {
                too_long = false;
                tell(member, {"* that line was too long, and nobody has heard it"});
            } else if (!obey(member, line)) {
                return;
            }
            // Whoever has just heard her gets to read it before she goes on.
            if (copse::yield()) return;
        }
    }

    // What members say ---------------------------------------------------------------------------

    // false: she wants to go.
    bool obey(Member& member, std::string_view line) {
        if (line.empty()) return true;
        if (line[0] != '/') {
            say(member, line);
            return true;
        }
        std::string_view verb = line, noun;
        if (size_t space = line.find(' '); space != line.npos) {
            verb = {line.data(), space};
            noun = {verb.end() + 1, line.end()};
        }
        if (verb == "/join") join(member, noun);
        else if (verb == "/name") rename(member, noun);
        else if (verb == "/who") list(member);
        else if (verb != "/quit") tell(member, {"* there is no ", verb});
        else return tell(member, {"* goodbye, ", member.name}), false;
        return true;
    }

    void say(Member& member, std::string_view words) {
        if (!member.room) return tell(member, {"* join a room first: /join ROOM"});
        if (!tell_all(*member.room, {member.name, ": ", words})) return tell_of_poverty(member);
        ++said_;
    }

    // What is announced is composed first: without memory for that nothing changes.
    void join(Member& member, std::string_view name) {
        if (!is_name(name)) return tell(member, {"* a room's name is made of letters and digits"});
        if (member.room && name == member.room->name) return tell(member, {"* you are there"});
        Line* line = compose({"* ", member.name, " joins ", name});
        Room* room = line ? obtain_room(name) : nullptr;
        if (room) {
            leave_room(member, " leaves");
            member.room = room;
            ++room->size;
            link(&member, room->members, &Member::next_in_room, &Member::link_in_room);
            put_to_all(*room, *line);
        } else {
            tell_of_poverty(member);
        }
        if (line) drop(*line);
    }

    void leave_room(Member& member, std::string_view how) {
        Room* room = member.room;
        if (!room) return;
        member.room = nullptr;
        unlink(&member, &Member::next_in_room, &Member::link_in_room);
        if (--room->size) return (void)tell_all(*room, {"* ", member.name, how});
        unlink(room, &Room::next, &Room::link);
        --rooms_;
        release(room, sizeof(Room));
    }

    void rename(Member& member, std::string_view name) {
        if (!is_name(name)) return tell(member, {"* a name is made of letters and digits"});
        if (find_member(name)) {
            ++refused_names_;
            return tell(member, {"* the name ", name, " is in use"});
        }
        Line* line = member.room ? compose({"* ", member.name, " is now ", name})
                                 : compose({"* you are ", name});
        if (!line) return tell_of_poverty(member);
        member.name = Name{name};
        if (member.room) put_to_all(*member.room, *line);
        else put(member, *line);
        drop(*line);
    }

    void list(Member& member) {
        if (!member.room) return tell(member, {"* you are in no room"});
        char text[names_at_once * (name_limit + 2) + 64];
        size_t size = 0;
        unsigned named = 0;
        for (Member* each = member.room->members; each && named < names_at_once;
             each = each->next_in_room, ++named)
            size += size_t(snprintf(text + size, sizeof text - size, "%s%s", named ? ", " : "",
                                    each->name.text));
        if (size_t more = member.room->size - named)
            size += size_t(snprintf(text + size, sizeof text - size, " and %zu more", more));
        tell(member, {"* in ", member.room->name, ": ", std::string_view{text, size}});
    }

    static bool is_name(std::string_view name) {
        for (char c : name) {
            bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
            if (!letter && !(c >= '0' && c <= '9') && c != '-' && c != '_') return false;
        }
        return !name.empty() && name.size() <= name_limit;
    }

    // Lists --------------------------------------------------------------------------------------

    template <class T>
    static void link(T* item, T*& list, T* T::* next, T** T::* link) {
        item->*next = list;
        item->*link = &list;
        if (list) list->*link = &(item->*next);
        list = item;
    }
    template <class T> static void unlink(T* item, T* T::* next, T** T::* link) {
        *(item->*link) = item->*next;
        if (item->*next) item->*next->*link = item->*link;
    }

    Member* find_member(std::string_view name) {
        for (Member* each = members_list_; each; each = each->next)
            if (name == each->name) return each;
        return nullptr;
    }
    // Null: it would be a new one, and there is no memory.
    Room* obtain_room(std::string_view name) {
        for (Room* each = rooms_list_; each; each = each->next)
            if (name == each->name) return each;
        void* memory = allocate(sizeof(Room));
        if (!memory) return nullptr;
        auto* room = ::new (memory) Room{Name{name}};
        link(room, rooms_list_, &Room::next, &Room::link);
        ++rooms_;
        return room;
    }

    ChatOptions options_;
    Member* members_list_ = nullptr;
    Room* rooms_list_ = nullptr;
    size_t members_ = 0, rooms_ = 0, memory_ = 0;
    uint64_t guests_ = 0, said_ = 0, dropped_ = 0, refused_names_ = 0, without_memory_ = 0;
    Ready<32> too_slow_{"* you read too slowly; goodbye\n"};
    Ready<31> out_of_memory_{"* the server is out of memory\n"};
};
