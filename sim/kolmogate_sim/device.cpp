// A Verilated device behind a C interface: bytes in, bytes out, and a clock that runs while they do.
//
// The device has byte streams `i` and `o`, a clock `clk` and a synchronous reset `rst`. Compiled together
// with Verilator's output by kolmogate_sim.verilate, called by kolmogate_sim.device.

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

struct Device {
    VerilatedContext context;
    Vdevice top{&context};
    std::vector<uint8_t> input;
    size_t taken = 0;
    uint64_t cycles = 0;
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
        PORT(i, valid) = device.taken < device.input.size();
        if (PORT(i, valid)) PORT(i, payload) = device.input[device.taken];
        PORT(o, ready) = 1;
        device.level(false);
        device.taken += PORT(i, valid) && PORT(i, ready);
        ++silence;
        if (PORT(o, valid)) {
            bytes[count++] = PORT(o, payload);
            silence = 0;
        }
        device.level(true);
        ++device.cycles;
    }
    return count;
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
