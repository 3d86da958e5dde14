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
// One that has not begun is its address and one, and holds what the trampoline needs to call:
//
//      top -   8   the entry function
//      top -  16   its argument
//
// The switch leaves by `ret`: the scheduler calls it from one place, so the prediction holds, and
// a return, unlike a branch, needs no landing pad where it arrives. For the same reason a new
// context is called, not returned to, and its end is a return. x30 is stored as it came:
// callers that sign their return addresses (pointer authentication) do so with a value of sp that
// is back in place before they check it.
//
// Invariants:
//  - Every suspended context has the same layout, so the CFI stays true when the stack is exchanged
//    in the middle of copse_switch: an unwinder is right at every instruction.
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
    tbnz x1, 0, 9f
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

// void* copse_prepare(void* top, void* (*entry)(void*), void* argument)
    function SYMBOL(copse_prepare)
    BTI_C
    and x0, x0, -16
    stp x2, x1, [x0, -16]!
    add x0, x0, 1
    ret
    end SYMBOL(copse_prepare)

// Where a new context (in x1) begins and ends: the switch branches here, nobody calls. What the
// entry returns is resumed as the switch would, from a stack that is nobody's any more.
    function SYMBOL(copse_trampoline)
    .cfi_undefined x30
9:  sub x1, x1, 1
    mov sp, x1
    ldp x0, x1, [sp], 16
    mov x29, xzr
    mov x30, xzr
    blr x1
    mov x1, x0
    tbnz x1, 0, 9b
    mov sp, x1
    .cfi_def_cfa sp, 160
    .cfi_offset x29, -160
    .cfi_offset x30, -152
    .cfi_offset x19, -144
    .cfi_offset x20, -136
    .cfi_offset x21, -128
    .cfi_offset x22, -120
    .cfi_offset x23, -112
    .cfi_offset x24, -104
    .cfi_offset x25, -96
    .cfi_offset x26, -88
    .cfi_offset x27, -80
    .cfi_offset x28, -72
    .cfi_offset d8, -64
    .cfi_offset d9, -56
    .cfi_offset d10, -48
    .cfi_offset d11, -40
    .cfi_offset d12, -32
    .cfi_offset d13, -24
    .cfi_offset d14, -16
    .cfi_offset d15, -8
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
// is only ever branched to directly. Pointer authentication is not claimed: nothing here signs.
    .section .note.gnu.property, "a", %note
    .balign 8
    .word 4, 16, 5                  // size of the name, size of the rest, NT_GNU_PROPERTY_TYPE_0
    .asciz "GNU"
    .word 0xc0000000, 4             // GNU_PROPERTY_AARCH64_FEATURE_1_AND, size of its value
    .word 1, 0                      // BTI; padding

// Nothing here needs an executable stack; without this section a linker would make one.
    .section .note.GNU-stack, "", %progbits
#endif
