// SlotTable: records that are looked up by {slot, generation} and can be looked at for ever.
//
// Records live in chunks that are never unmapped while the table lives, so a stale handle finds
// memory, sees another generation and knows. They are dense: walking or waking many of them touches
// few cache lines and few pages.
//
// Invariants:
//  - A record's slot never changes; its generation changes when the record is given back, and is
//    never 0.
//  - Taking from the free list allocates nothing.
#pragma once

#include "runtime/check.h"

#include <new>

namespace copse {

template <class Record> class SlotTable {
  public:
    // Memory comes from the table of functions; the first generation tells loops apart.
    void open(const System& system, uint32_t generation) {
        system_ = &system;
        first_generation_ = generation;
    }

    void close() {
        for (uint32_t i = 0; i < chunks_; ++i) system_->unmap(*system_, directory_[i], chunk_bytes);
        if (directory_) system_->unmap(*system_, directory_, directory_bytes);
        directory_ = nullptr;
        chunks_ = used_ = 0;
    }

    // A record never used before, or null: no memory, or as many as a slot can number.
    Record* carve() {
        if (used_ == chunks_ * chunk_records && !grow()) return nullptr;
        uint32_t slot = used_++;
        Record* record = ::new (place(slot)) Record();
        record->slot = slot;
        record->generation = first_generation_;
        return record;
    }

    Record* find(uint32_t slot, uint32_t generation) {
        if (slot >= used_) return nullptr;
        Record* record = at(slot);
        return record->generation == generation ? record : nullptr;
    }

    // Has the processor fetch a record that will be looked at soon. Inline at any price: see ReadyRing.
    [[gnu::always_inline]] void warm(uint32_t slot) {
        if (slot < used_) __builtin_prefetch(place(slot), 1);
    }

    // Every record ever carved, in order of slots.
    uint32_t size() const { return used_; }
    Record* at(uint32_t slot) { return static_cast<Record*>(place(slot)); }

    static void renew(Record& record) {
        if (++record.generation == 0) record.generation = 1;
    }

  private:
    static constexpr uint32_t chunk_records = 256;
    static constexpr size_t chunk_bytes = chunk_records * sizeof(Record);
    static constexpr uint32_t directory_entries = 1u << 16;  // 16 million records
    static constexpr size_t directory_bytes = directory_entries * sizeof(void*);

    void* place(uint32_t slot) {
        return static_cast<char*>(directory_[slot / chunk_records]) +
               (slot % chunk_records) * sizeof(Record);
    }

    bool grow() {
        if (chunks_ == directory_entries) return false;
        if (!directory_) {
            directory_ = static_cast<void**>(system_->map(*system_, directory_bytes));
            if (!directory_) return false;
        }
        void* chunk = system_->map(*system_, chunk_bytes);
        if (!chunk) return false;
        directory_[chunks_++] = chunk;
        return true;
    }

    const System* system_ = nullptr;
    void** directory_ = nullptr;
    uint32_t chunks_ = 0;
    uint32_t used_ = 0;
    uint32_t first_generation_ = 1;
};

}  // namespace copse
