#include "net/sim/replay.h"

#include <stdio.h>

namespace copse::sim::detail {

namespace {
const char* const schedules[] = {"production", "random", "pct", "native", "any"};
constexpr const char* heading = "copse replay 1\n";
}  // namespace

bool schedule_called(const char* word, Schedule& found) {
    for (int i = 0; i < int(sizeof schedules / sizeof *schedules); ++i) {
        if (strcmp(word, schedules[i])) continue;
        found = Schedule(i);
        return true;
    }
    return false;
}

bool Replay::read(const char* path) {
    FILE* file = fopen(path, "r");
    if (!file) return false;
    char line[512], word[32];
    bool right = fgets(line, sizeof line, file) && strcmp(line, heading) == 0;
    while (right && fgets(line, sizeof line, file)) {
        unsigned long long a = 0, b = 0;
        unsigned value = 0;
        if (sscanf(line, "seed %llu", &a) == 1) {
            seed = a;
        } else if (sscanf(line, "schedule %31s %u", word, &value) >= 1) {
            right = schedule_called(word, schedule);
            if (value) depth = value;
        } else if (sscanf(line, "%llx %llu %u", &a, &b, &value) == 3) {
            answers.push({a, b, value});
        }
    }
    fclose(file);
    return right;
}

bool Replay::write(const char* path, const char* campaign, const char* failure) const {
    FILE* file = fopen(path, "w");
    if (!file) return false;
    fprintf(file, "%scampaign %s\nfailure %s\nseed %llu\nschedule %s %u\n", heading, campaign,
            failure, (unsigned long long)seed, schedules[int(schedule)], depth);
    for (const Answer& each : answers)
        fprintf(file, "%016llx %llu %u\n", (unsigned long long)each.key,
                (unsigned long long)each.index, each.value);
    return fclose(file) == 0;
}

}  // namespace copse::sim::detail
