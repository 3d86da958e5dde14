// Switch on AArch64: ten registers, a frame record and the low halves of eight vector registers,
// on the stack of whoever is suspended.
//
// The procedure call standard (AAPCS64, "General-purpose Registers" and "SIMD and Floating-Point
// registers") lets a function change every register but x19-x29, sp and the low 64 bits of v8-v15.
// x30 holds the return address; x18 is the platform's and the same for every context. A suspended
// context, from the address that names it upwards:
//
//      sp +  96   d8  ... d15
//      sp +  16   x19 ... x28
//      sp +   8   x30            the return address into whoever called copse_switch
//      sp         x29
//
// copse_prepare builds that same frame by hand at the top of a new stack, with the entry function
// in x19, its argument in x20, copse_trampoline + 4 in x30, and zero in x29, where a chain of frame
// records ends.
//
// The switch leaves by `ret`: the scheduler calls it from one place, so the prediction holds, and
// a return, unlike a branch, needs no landing pad where it arrives. x30 is stored as it came:
// callers that sign their return addresses (pointer authentication) do so with a value of sp that
// is back in place before they check it.
//
// Invariants:
//  - Every context has the same layout, so the CFI stays true when the stack is exchanged in the
//    middle of copse_switch: an unwinder is right at every instruction.
//  - sp is a multiple of 16 throughout (AAPCS64, "The Stack"), so also at the entry's first
//    instruction.
//  - An unwinder stops at copse_trampoline: its CFI has no caller, and x29 is 0 there.

// Mach-O puts an underscore before a C name, and has other words for the rest.
#ifdef __APPLE__
#define SYMBOL(name) _##name
#define HIDDEN .private_extern
#else
#define SYMBOL(name) name
#define HIDDEN .hidden
#endif

// The landing pad `bti c`, by the number it has among the hints: older assemblers know no better.
#define BTI_C hint #34

    .macro function name
    .globl \name
    HIDDEN \name
#ifndef __APPLE__
    .type \name, %function
#endif
    .balign 16
\name:
    .cfi_startproc
    .endm

    .macro end name
    .cfi_endproc
#ifndef __APPLE__
    .size \name, . - \name
#endif
    .endm

    .macro keep first, second, offset
    stp \first, \second, [sp, \offset]
    .cfi_rel_offset \first, \offset
    .cfi_rel_offset \second, \offset + 8
    .endm

    .macro take first, second, offset
    ldp \first, \second, [sp, \offset]
    .cfi_restore \first
    .cfi_restore \second
    .endm

    .text

// void copse_switch(void** from, void* to)
    function SYMBOL(copse_switch)
    BTI_C
    sub sp, sp, 160
    .cfi_adjust_cfa_offset 160
    keep x29, x30, 0
    keep x19, x20, 16
    keep x21, x22, 32
    keep x23, x24, 48
    keep x25, x26, 64
    keep x27, x28, 80
    keep d8, d9, 96
    keep d10, d11, 112
    keep d12, d13, 128
    keep d14, d15, 144
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    take x29, x30, 0
    take x19, x20, 16
    take x21, x22, 32
    take x23, x24, 48
    take x25, x26, 64
    take x27, x28, 80
    take d8, d9, 96
    take d10, d11, 112
    take d12, d13, 128
    take d14, d15, 144
    add sp, sp, 160
    .cfi_adjust_cfa_offset -160
    ret
    end SYMBOL(copse_switch)

// void* copse_prepare(void* top, void (*entry)(void*), void* argument)
    function SYMBOL(copse_prepare)
    BTI_C
    and x0, x0, -16
    sub x0, x0, 160
    adr x9, SYMBOL(copse_trampoline) + 4
    stp xzr, x9, [x0, 0]
    stp x1, x2, [x0, 16]
    ret
    end SYMBOL(copse_prepare)

// Where a new context begins: "returned to" by the first switch to it, called by nobody. The
// address returned to is that of its second instruction, because unwinders look up the one before.
    function SYMBOL(copse_trampoline)
    .cfi_undefined x30
    nop
    mov x0, x20
    blr x19
    brk 1                           // the entry returned, against its contract
    end SYMBOL(copse_trampoline)

// FPCR holds control alone; the status flags are a register of their own.
//
// uint64_t copse_fp_environment(void)
    function SYMBOL(copse_fp_environment)
    BTI_C
    mrs x0, fpcr
    ret
    end SYMBOL(copse_fp_environment)

// void copse_set_fp_environment(uint64_t)
    function SYMBOL(copse_set_fp_environment)
    BTI_C
    msr fpcr, x0
    ret
    end SYMBOL(copse_set_fp_environment)

#ifndef __APPLE__
// What this object can promise (ELF for the Arm 64-bit architecture, program property): branch
// target identification, since every function above begins with a landing pad and the trampoline
// is only ever returned to. Pointer authentication is not claimed: nothing here signs.
    .section .note.gnu.property, "a", %note
    .balign 8
    .word 4, 16, 5                  // size of the name, size of the rest, NT_GNU_PROPERTY_TYPE_0
    .asciz "GNU"
    .word 0xc0000000, 4             // GNU_PROPERTY_AARCH64_FEATURE_1_AND, size of its value
    .word 1, 0                      // BTI; padding

// Nothing here needs an executable stack; without this section a linker would make one.
    .section .note.GNU-stack, "", %progbits
#endif
