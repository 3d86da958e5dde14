#include "net/sim/chance.h"

namespace copse::sim::detail {

namespace {
uint64_t place(uint64_t key, uint64_t index) { return mix(key ^ mix(index)); }
}

void Chance::replay(const Answer* answers, uint32_t count) {
    replays_ = true;
    uint32_t size = 16;
    while (size < count * 2) size *= 2;
    table_.clear();
    table_.resize(size);
    for (uint32_t i = 0; i < count; ++i) {
        if (!answers[i].value) continue;
        uint64_t at = place(answers[i].key, answers[i].index);
        while (table_[uint32_t(at & (size - 1))].value) ++at;
        table_[uint32_t(at & (size - 1))] = answers[i];
    }
}

// An answer that was given to a question with more ways to go is the last way of this one.
uint32_t Chance::found(uint64_t key, uint64_t index, uint32_t n) {
    for (uint64_t at = place(key, index);; ++at) {
        const Answer& answer = table_[uint32_t(at & (table_.size() - 1))];
        if (!answer.value) return 0;
        if (answer.key != key || answer.index != index) continue;
        uint32_t value = answer.value < n ? answer.value : n - 1;
        return settle({key, 0}, index, value);
    }
}

}  // namespace copse::sim::detail
