// Context: a suspended computation, described by nothing but its stack pointer.
//
// Everything else the ABI asks a function to preserve lies on its own stack, just above that
// address; the picture of it opens each port's file. A port is one file in this folder that
// defines the four functions below for one processor (or for any processor, by way of libc).
//
// A context that has not begun is a stack pointer with its lowest bit set. It begins by a call
// inside the switch and ends by returning to it, so that a processor that predicts returns finds
// calls and returns in pairs: a thread that runs to its end costs its starter no misprediction.
//
// Invariants:
//  - A saved stack pointer is valid from the switch that wrote it until the switch that takes it
//    up again, and is taken up once.
//  - A context is resumed on the OS thread that suspended it. It may be prepared on another.
//  - Only the scheduler's change_stack(), and a simulator's Strand, call copse_switch; nothing here
//    knows of threads.
#pragma once

#include <stddef.h>
#include <stdint.h>

// No port needs more of a new stack than this. The processors' own files write less than 200
// bytes, so that a thread that has not run yet costs one page.
constexpr size_t context_room = 16 * 1024;

extern "C" {

// Suspends the caller: keeps every callee-saved register on its stack, writes the stack pointer
// to *from, and resumes the context `to`. Returns when somebody switches back to *from.
// Floating-point control words are not touched: they belong to the OS thread (see below).
__attribute__((visibility("hidden"))) void copse_switch(void** from, void* to) noexcept;

// Builds a context on the stack that ends (exclusively) at `top`, such that the first switch to
// it calls entry(argument) with the stack aligned as the ABI asks; `top` itself may be any
// address. The entry returns the context that goes on in its place, which may be one that has not
// begun; its own stack is then nobody's. Returns the context. Writes at most context_room bytes
// below `top`, and has no other effect that outlasts the call.
__attribute__((visibility("hidden"))) void* copse_prepare(void* top, void* (*entry)(void*),
                                                          void* argument) noexcept;

// The floating-point control words (rounding, masks, flush-to-zero; not the status flags) of the
// OS thread, packed as the port likes: two of them are equal when the environments are. Only for
// threads that ask for an environment of their own.
__attribute__((visibility("hidden"))) uint64_t copse_fp_environment(void) noexcept;
__attribute__((visibility("hidden"))) void copse_set_fp_environment(uint64_t) noexcept;
}
