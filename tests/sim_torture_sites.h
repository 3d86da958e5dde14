// Sites: where in copse's sources a call of the system table was made from.
//
// The scan of the sources says which there are; a backtrace taken in a host's fault hook, and
// addr2line, say which one a call came from. What a compiler inlines, addr2line unfolds. A call in
// tail position leaves no frame in an optimised build: then the caller of the function it stands in
// is the innermost there is, and if its line names that function, the site is known by that. Where
// one function has two such calls, both count. Loop::allocate(), which only passes on, is no site;
// its callers are.
#pragma once

#include "sim_torture.h"

// GCC finds something in its own <regex> when a sanitizer is on.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <stdlib.h>
#include <unistd.h>

#if defined(__GLIBC__)
#include <dirent.h>
#include <execinfo.h>
#include <link.h>
#define COPSE_TEST_BACKTRACE 1
#else
#define COPSE_TEST_BACKTRACE 0
#endif

namespace torture {

struct Site {
    std::string file;  // from the root of the sources
    int line;
    size_t call;       // of fallibles
    std::string source;
    std::string function;  // that it stands in
    std::set<int> told{};  // the errnos that a call from here was failed with

    bool operator<(const Site& other) const {
        return file != other.file ? file < other.file : line < other.line;
    }
};

#if COPSE_TEST_BACKTRACE

using Frames = std::array<void*, 14>;
inline Frames frames_here() {
    Frames frames{};
    (void)backtrace(frames.data(), int(frames.size()));
    return frames;
}

inline std::string source_root() {
    std::string here = __FILE__;
    return here.substr(0, here.rfind("/tests/"));
}

// Every place in runtime/ and net/ that calls an entry that can fail.
inline std::vector<Site> sites_in_sources() {
    std::string entries;
    for (const Fallible& each : fallibles)
        entries += (entries.empty() ? "" : "|") + std::string(each.call);
    const std::regex direct("\\b(system|system_|system\\(\\))(\\.|->)(" + entries + ")\\(");
    const std::regex passed("\\b(loop|loop_|loop\\.value|current\\(\\))(\\.|->)(allocate)\\(");
    const std::regex heading("^[A-Za-z][^;=]*\\b([a-z_]+)\\([^;]*\\{$");
    std::vector<Site> found;
    for (const char* folder : {"runtime", "net"}) {
        DIR* listing = opendir((source_root() + "/" + folder).c_str());
        if (!listing) return {};
        while (dirent* entry = readdir(listing)) {
            std::string name = entry->d_name;
            bool is_source = name.ends_with(".cpp") || name.ends_with(".h");
            // What stands behind the table of the real machine.
            if (!is_source || name.starts_with("system") || name.starts_with("poller_")) continue;
            std::ifstream file(source_root() + "/" + folder + "/" + name);
            std::string line, function;
            for (int number = 1; std::getline(file, line); ++number) {
                std::smatch match;
                if (std::regex_search(line, match, heading)) function = match[1];
                std::string code = line.substr(0, line.find("//"));
                // Loop::allocate() itself.
                if (code.find("return system_->allocate(*system_, size);") != code.npos) continue;
                bool calls = std::regex_search(code, match, direct);
                if (!calls && !std::regex_search(code, match, passed)) continue;
                found.push_back({std::string(folder) + "/" + name, number,
                                 number_of(match[3].str().c_str()),
                                 line.substr(line.find_first_not_of(' ')), function});
            }
        }
        closedir(listing);
    }
    std::sort(found.begin(), found.end());
    return found;
}

struct Place {
    std::string file;
    int line;
};
// What addr2line says of each address: the innermost inlined place first.
inline std::map<void*, std::vector<Place>> places_of(const std::set<void*>& addresses) {
    std::map<void*, std::vector<Place>> places;
    char program[4096];
    ssize_t size = readlink("/proc/self/exe", program, sizeof program - 1);
    if (size <= 0) return places;
    program[size] = 0;
    uintptr_t base = 0;
    dl_iterate_phdr([](dl_phdr_info* info, size_t, void* out) {
        *static_cast<uintptr_t*>(out) = info->dlpi_addr;
        return 1;  // the program comes first
    }, &base);
    char words[] = "/tmp/copse-torture-XXXXXX";
    int fd = mkstemp(words);
    if (fd < 0) return places;
    FILE* list = fdopen(fd, "w");
    for (void* each : addresses)
        fprintf(list, "0x%llx\n", (unsigned long long)(uintptr_t(each) - 1 - base));
    fclose(list);
    std::string command = "addr2line -a -i -e '" + std::string(program) + "' <";
    command += std::string(words) + " 2>/dev/null";
    FILE* answer = popen(command.c_str(), "r");
    char line[4096];
    auto next = addresses.begin();
    std::vector<Place>* of = nullptr;
    while (answer && fgets(line, sizeof line, answer)) {
        if (!strncmp(line, "0x", 2)) {
            if (next == addresses.end()) break;
            of = &places[*next++];
            continue;
        }
        char* colon = strrchr(line, ':');
        if (char* words_behind = strstr(line, " (")) *words_behind = 0, colon = strrchr(line, ':');
        if (!of || !colon) continue;
        of->push_back({std::string(line, size_t(colon - line)), atoi(colon + 1)});
    }
    if (answer) pclose(answer);
    unlink(words);
    return places;
}

inline std::string line_of(const Place& place) {
    static std::map<std::string, std::vector<std::string>> files;
    std::vector<std::string>& lines = files[place.file];
    if (lines.empty()) {
        std::ifstream file(place.file);
        for (std::string line; std::getline(file, line);) lines.push_back(line);
    }
    bool there = place.line > 0 && size_t(place.line) <= lines.size();
    return there ? lines[size_t(place.line - 1)] : std::string();
}

// The sites that a call with these frames came from: one, but for calls in tail position; none if
// it is no call of copse's own.
inline std::vector<Site*> sites_of(const Frames& frames, size_t call, std::vector<Site>& sites,
                                   const std::map<void*, std::vector<Place>>& places) {
    constexpr int near = 3;  // lines that a statement goes over
    std::string root = source_root() + "/";
    bool left_simulator = false;  // the hook's own frames are behind us
    for (void* frame : frames) {
        auto found = places.find(frame);
        if (!frame || found == places.end()) continue;
        for (const Place& place : found->second) {
            if (place.file.compare(0, root.size(), root)) continue;
            std::string file = place.file.substr(root.size());
            bool in_simulator = file.starts_with("net/sim/");
            left_simulator |= in_simulator;
            if (in_simulator || !left_simulator) continue;
            if (file.starts_with("tests/")) return {};
            Site* best = nullptr;
            for (Site& each : sites) {
                int distance = abs(each.line - place.line);
                if (each.file != file || each.call != call || distance > near) continue;
                if (!best || distance < abs(best->line - place.line)) best = &each;
            }
            if (best) return {best};
            std::vector<Site*> through;
            std::string line = line_of(place);
            for (Site& each : sites)
                if (each.call == call && !each.function.empty() &&
                    std::regex_search(line, std::regex("\\b" + each.function + "\\(")))
                    through.push_back(&each);
            if (!through.empty()) return through;
        }
    }
    return {};
}

#endif

}  // namespace torture
