// ABI test on x86-64: what a compiler would not write.

#ifdef __APPLE__
#define SYMBOL(name) _##name
#else
#define SYMBOL(name) name
#endif

    .macro load register, number
    lea \number(%rdx), %\register
    .endm

    .macro compare register, number
    lea \number(%rdx), %rcx
    cmp %rcx, %\register
    je 1f
    or $(1 << \number), %eax
1:
    .endm

    .text

// uint64_t abi_switch_checked(void** from, void* to, uint64_t pattern, copse_switch's type)
// Switches with a value of its own in every callee-saved register. Returns a bit for each one,
// in the order of ABI_REGISTERS, that came back with another.
    .globl SYMBOL(abi_switch_checked)
    .balign 16
SYMBOL(abi_switch_checked):
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    push %rdx
    load rbx, 0
    load rbp, 1
    load r12, 2
    load r13, 3
    load r14, 4
    load r15, 5
    call *%rcx
    pop %rdx
    xor %eax, %eax
    compare rbx, 0
    compare rbp, 1
    compare r12, 2
    compare r13, 3
    compare r14, 4
    compare r15, 5
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret

// An entry for copse_prepare. Its argument is {uintptr_t sp; void* (*next)(void*)}: notes the stack
// pointer as it is at a function's first instruction and goes on in next.
    .globl SYMBOL(abi_entry)
    .balign 16
SYMBOL(abi_entry):
    endbr64
    mov %rsp, (%rdi)
    jmp *8(%rdi)

#ifndef __APPLE__
    .section .note.GNU-stack, "", @progbits
#endif
