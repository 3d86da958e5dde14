// ABI test on AArch64: what a compiler would not write.

#ifdef __APPLE__
#define SYMBOL(name) _##name
#else
#define SYMBOL(name) name
#endif

    .macro load register, number
    add \register, x2, \number
    .endm

    .macro load_vector register, number
    add x9, x2, \number
    fmov \register, x9
    .endm

    .macro compare register, number
    add x9, x2, \number
    cmp x9, \register
    cset x10, ne
    orr x0, x0, x10, lsl \number
    .endm

    .macro compare_vector register, number
    fmov x11, \register
    compare x11, \number
    .endm

    .text

// uint64_t abi_switch_checked(void** from, void* to, uint64_t pattern, copse_switch's type)
// Switches with a value of its own in every callee-saved register. Returns a bit for each one,
// in the order of ABI_REGISTERS, that came back with another.
    .globl SYMBOL(abi_switch_checked)
    .balign 16
SYMBOL(abi_switch_checked):
    hint #34                        // bti c
    sub sp, sp, 176
    stp x29, x30, [sp, 0]
    stp x19, x20, [sp, 16]
    stp x21, x22, [sp, 32]
    stp x23, x24, [sp, 48]
    stp x25, x26, [sp, 64]
    stp x27, x28, [sp, 80]
    stp d8, d9, [sp, 96]
    stp d10, d11, [sp, 112]
    stp d12, d13, [sp, 128]
    stp d14, d15, [sp, 144]
    str x2, [sp, 160]
    load x19, 0
    load x20, 1
    load x21, 2
    load x22, 3
    load x23, 4
    load x24, 5
    load x25, 6
    load x26, 7
    load x27, 8
    load x28, 9
    load x29, 10
    load_vector d8, 11
    load_vector d9, 12
    load_vector d10, 13
    load_vector d11, 14
    load_vector d12, 15
    load_vector d13, 16
    load_vector d14, 17
    load_vector d15, 18
    blr x3
    ldr x2, [sp, 160]
    mov x0, xzr
    compare x19, 0
    compare x20, 1
    compare x21, 2
    compare x22, 3
    compare x23, 4
    compare x24, 5
    compare x25, 6
    compare x26, 7
    compare x27, 8
    compare x28, 9
    compare x29, 10
    compare_vector d8, 11
    compare_vector d9, 12
    compare_vector d10, 13
    compare_vector d11, 14
    compare_vector d12, 15
    compare_vector d13, 16
    compare_vector d14, 17
    compare_vector d15, 18
    ldp x29, x30, [sp, 0]
    ldp x19, x20, [sp, 16]
    ldp x21, x22, [sp, 32]
    ldp x23, x24, [sp, 48]
    ldp x25, x26, [sp, 64]
    ldp x27, x28, [sp, 80]
    ldp d8, d9, [sp, 96]
    ldp d10, d11, [sp, 112]
    ldp d12, d13, [sp, 128]
    ldp d14, d15, [sp, 144]
    add sp, sp, 176
    ret

// An entry for copse_prepare. Its argument is {uintptr_t sp; void* (*next)(void*)}: notes the stack
// pointer as it is at a function's first instruction and goes on in next.
    .globl SYMBOL(abi_entry)
    .balign 16
SYMBOL(abi_entry):
    hint #34                        // bti c
    mov x9, sp
    str x9, [x0]
    ldr x16, [x0, 8]
    br x16

#ifndef __APPLE__
    .section .note.GNU-stack, "", %progbits
#endif
