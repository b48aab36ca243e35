// Scratch memory of the calling thread: 64-byte aligned, kept between calls, one slot per use.
#pragma once
#include <stdint.h>
#include <stdlib.h>

#include <new>

namespace lowbit {

enum Slot { kRowSlot, kCodesSlot, kScaleSlot, kExactSlot, kExactOutSlot, kTableSlot, kTilesSlot, kHitSlot, kBiasSlot, kFloatSlot, kPanelSlot,
            kSoftmaxSlot, kPackedKeysSlot, kWideKeysSlot, kAttentionSlot, kPartialSlot, kChainSlot, kPhaseSlot, kSeenSlot, kExpandedSlot, kRoundedSlot,
            kWeightSlot, kSignSlot, kTurnSlot,
            kSlots };

class Scratch {
 public:
  ~Scratch() {
    for (auto& slot : slots_) free(slot.data);
  }
  void* get(Slot which, int64_t bytes) {
    Memory& slot = slots_[which];
    if (slot.bytes < bytes) {
      free(slot.data);
      slot.bytes = (bytes + bytes / 4 + 4095) / 4096 * 4096;
      slot.data = aligned_alloc(4096, (size_t)slot.bytes);
      if (slot.data == nullptr) {
        slot.bytes = 0;
        throw std::bad_alloc();
      }
    }
    return slot.data;
  }

 private:
  struct Memory {
    void* data = nullptr;
    int64_t bytes = 0;
  };
  Memory slots_[kSlots];
};

inline Scratch& thread_scratch() {
  static thread_local Scratch memory;
  return memory;
}

template <class T>
T* scratch(Slot which, int64_t count) {
  return (T*)thread_scratch().get(which, count * (int64_t)sizeof(T));
}

}  // namespace lowbit
