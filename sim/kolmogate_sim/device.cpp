// A Verilated device behind a C interface: bytes in, bytes out, and a clock that runs while they do.
//
// The device has byte streams `i` and `o`, a clock `clk` and a synchronous reset `rst`, and may say what it
// does in `activity` (kolmogate_hw.ports.ACTIVITY). Compiled together with Verilator's output by
// kolmogate_sim.verilate, called by kolmogate_sim.device.

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "Vdevice.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_fst_c.h"
#endif

// Verilator writes the second underscore of `i__valid` as its code.
#define PORT(stream, member) top.stream##___05F##member

namespace {

// Cycles of silence after which what has come is handed over: longer than the pauses inside an answer.
constexpr uint64_t kSilence = 8;

// Bits of `activity`. Those from kCompute on are counted.
enum { kBusy, kEndLayer, kCompute, kActivities = 6 };

// All cycles of a layer, then those of each counted activity.
using Spent = std::array<uint64_t, 1 + kActivities - kCompute>;

template <class Top>
auto activity(const Top& top, int) -> decltype(uint32_t(top.activity)) { return top.activity; }

// A device that does not say.
template <class Top>
uint32_t activity(const Top&, long) { return 0; }

struct Device {
    VerilatedContext context;
    Vdevice top{&context};
    std::vector<uint8_t> input;
    size_t taken = 0;
    uint64_t cycles = 0;
    // Cycles from one byte to the next, and when the next may pass, each way.
    uint64_t pace = 1, next_input = 0, next_output = 0;
    bool busy = false;
    // Of the last inference: its layers, and what followed the last of them.
    std::vector<Spent> spent;
#if VM_TRACE
    std::unique_ptr<VerilatedFstC> waves;
#endif

    // One clock level; `time` is in half cycles.
    void level(bool clock) {
        top.clk = clock;
        top.eval();
#if VM_TRACE
        if (waves) waves->dump(2 * cycles + clock);
#endif
    }

    // Counts what this cycle is spent on.
    void count() {
        const auto now = activity(top, 0);
        const bool was_busy = busy;
        busy = now >> kBusy & 1;
        if (!busy) return;
        if (!was_busy) spent.assign(1, {});
        ++spent.back()[0];
        for (int k = kCompute; k < kActivities; ++k) spent.back()[1 + k - kCompute] += now >> k & 1;
        if (now >> kEndLayer & 1) spent.push_back({});
    }
};

}  // namespace

// All else stays hidden: one process may load the libraries of several devices.
#pragma GCC visibility push(default)
extern "C" {

// A device after reset. `waves` is the path of an FST file, or null; ignored without VM_TRACE.
void* device_open(const char* waves) {
    auto device = std::make_unique<Device>();
#if VM_TRACE
    if (waves) {
        device->context.traceEverOn(true);
        device->waves = std::make_unique<VerilatedFstC>();
        device->top.trace(device->waves.get(), 99);
        device->waves->open(waves);
    }
#endif
    device->PORT(i, valid) = 0;
    device->PORT(o, ready) = 0;
    for (device->top.rst = 1; device->cycles < 2; ++device->cycles) {
        device->level(false);
        device->level(true);
    }
    device->top.rst = 0;
    return device.release();
}

// From now on the link moves a byte in so many cycles each way, at most.
void device_pace(void* handle, uint64_t cycles) { static_cast<Device*>(handle)->pace = cycles; }

// Queues bytes for the device, which takes them while device_read runs.
void device_write(void* handle, const uint8_t* bytes, size_t count) {
    auto& device = *static_cast<Device*>(handle);
    device.input.erase(device.input.begin(), device.input.begin() + device.taken);
    device.taken = 0;
    device.input.insert(device.input.end(), bytes, bytes + count);
}

// Runs the clock until bytes have come and then none for a while, until `capacity` bytes have come, or for
// `limit` cycles if none come. Returns how many were stored in `bytes`.
size_t device_read(void* handle, uint8_t* bytes, size_t capacity, uint64_t limit) {
    auto& device = *static_cast<Device*>(handle);
    auto& top = device.top;
    size_t count = 0;
    uint64_t silence = 0;
    while (count < capacity && silence < (count ? kSilence : limit)) {
        PORT(i, valid) = device.taken < device.input.size() && device.cycles >= device.next_input;
        if (PORT(i, valid)) PORT(i, payload) = device.input[device.taken];
        PORT(o, ready) = device.cycles >= device.next_output;
        device.level(false);
        device.count();
        if (PORT(i, valid) && PORT(i, ready)) {
            ++device.taken;
            device.next_input = device.cycles + device.pace;
        }
        ++silence;
        if (PORT(o, valid) && PORT(o, ready)) {
            device.next_output = device.cycles + device.pace;
            bytes[count++] = PORT(o, payload);
            silence = 0;
        }
        device.level(true);
        ++device.cycles;
    }
    return count;
}

// Stores what the layers of the last inference were spent on, for up to `capacity` of them and what followed.
// Returns how many there are.
size_t device_spent(void* handle, uint64_t* counts, size_t capacity) {
    const auto& spent = static_cast<Device*>(handle)->spent;
    for (size_t n = 0; n < std::min(capacity, spent.size()); ++n) {
        counts = std::copy(spent[n].begin(), spent[n].end(), counts);
    }
    return spent.size();
}

uint64_t device_cycles(void* handle) { return static_cast<Device*>(handle)->cycles; }

void device_close(void* handle) {
    auto* device = static_cast<Device*>(handle);
#if VM_TRACE
    if (device->waves) device->waves->close();
#endif
    device->top.final();
    delete device;
}

}  // extern "C"
#pragma GCC visibility pop
