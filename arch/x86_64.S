// Switch on x86-64: six registers and a return address, on the stack of whoever is suspended.
//
// The System V ABI for AMD64 (section 3.2.1, registers; 3.2.2, the stack frame) lets a function
// change every register but rbx, rbp, rsp and r12-r15. A caller of copse_switch expects nothing
// else back, so nothing else is kept. A suspended context, from the address that names it upwards:
//
//      sp + 48   return address   into whoever called copse_switch
//      sp + 40   rbp
//      sp + 32   rbx
//      sp + 24   r12
//      sp + 16   r13
//      sp +  8   r14
//      sp        r15
//
// One that has not begun is its address and one, and holds what the trampoline needs to call:
//
//      top -  8  nothing: it makes the alignment right
//      top - 16  zero, what a return address of the trampoline would be
//      top - 24  the entry function
//      top - 32  its argument
//
// The switch leaves by `ret`. The scheduler calls it from one place, so the return address that the
// processor predicts - pushed by the call that suspended somebody else - is the right one, and the
// caller's own return after it is predicted too. `pop rcx; jmp *rcx` wins where two call sites
// switch to each other; here it leaves the prediction stack one entry too deep, and every return
// after it goes wrong. Measured through a yield of three calls among 2 and 1000 threads, ns each
// (Zen 5): ret 4.3 and 5.6, jmp 16.6 and 23; with half of the threads coming by another path, ret
// 17 and 22, jmp 23 and 29. For the same reason a new context is called, not returned to, and its
// end is a return: the one that resumes the next context then is the switch's own, a call ago.
//
// Invariants:
//  - Every suspended context has the same layout, so the CFI stays true when the stack is exchanged
//    in the middle of copse_switch: an unwinder is right at every instruction.
//  - Only copse_trampoline calls the entry function, with rsp a multiple of 16; so at the entry's
//    first instruction rsp + 8 is one, as 3.2.2 asks.
//  - An unwinder stops at copse_trampoline: its CFI has no caller, rbp is 0 there, and so is the
//    word that a scan of the stack would take for a return address.

// Mach-O puts an underscore before a C name, and has other words for the rest.
#ifdef __APPLE__
#define SYMBOL(name) _##name
#define HIDDEN .private_extern
#else
#define SYMBOL(name) name
#define HIDDEN .hidden
#endif

    .macro function name
    .globl \name
    HIDDEN \name
#ifndef __APPLE__
    .type \name, @function
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

    .macro keep register
    push %\register
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset \register, 0
    .endm

    .macro take register
    pop %\register
    .cfi_adjust_cfa_offset -8
    .cfi_restore \register
    .endm

    .text

// void copse_switch(void** from, void* to)
    function SYMBOL(copse_switch)
    endbr64
    keep rbp
    keep rbx
    keep r12
    keep r13
    keep r14
    keep r15
    mov %rsp, (%rdi)
    test $1, %sil
    jnz 9f
    mov %rsi, %rsp
    take r15
    take r14
    take r13
    take r12
    take rbx
    take rbp
    ret
    end SYMBOL(copse_switch)

// void* copse_prepare(void* top, void* (*entry)(void*), void* argument)
    function SYMBOL(copse_prepare)
    endbr64
    and $-16, %rdi
    lea 1 - 32(%rdi), %rax
    movq $0, -16(%rdi)
    mov %rsi, -24(%rdi)
    mov %rdx, -32(%rdi)
    ret
    end SYMBOL(copse_prepare)

// Where a new context (in rsi) begins and ends: the switch jumps here, nobody calls. What the entry
// returns is resumed as the switch would, from a stack that is nobody's any more.
    function SYMBOL(copse_trampoline)
    .cfi_undefined rip
9:  lea -1(%rsi), %rsp
    pop %rdi
    pop %rax
    xor %ebp, %ebp
    call *%rax
    mov %rax, %rsi
    test $1, %al
    jnz 9b
    mov %rsi, %rsp
    .cfi_def_cfa rsp, 56
    .cfi_offset rip, -8
    .cfi_offset rbp, -16
    .cfi_offset rbx, -24
    .cfi_offset r12, -32
    .cfi_offset r13, -40
    .cfi_offset r14, -48
    .cfi_offset r15, -56
    take r15
    take r14
    take r13
    take r12
    take rbx
    take rbp
    ret
    end SYMBOL(copse_trampoline)

// The words are the x87 control word above MXCSR. MXCSR's lowest six bits are status: they are
// left out, so that two words are equal when the environments are.
//
// uint64_t copse_fp_environment(void)
    function SYMBOL(copse_fp_environment)
    endbr64
    stmxcsr -4(%rsp)
    fnstcw -8(%rsp)
    mov -4(%rsp), %ecx
    movzwl -8(%rsp), %eax
    and $-64, %ecx
    shl $32, %rax
    or %rcx, %rax
    ret
    end SYMBOL(copse_fp_environment)

// An x87 exception waits for the next x87 instruction. One that arose while it was masked must not
// fire because the new words unmask it: somebody else's thread would be struck. Status flags that
// the new words leave masked are not touched.
//
// void copse_set_fp_environment(uint64_t)
    function SYMBOL(copse_set_fp_environment)
    endbr64
    stmxcsr -4(%rsp)
    mov -4(%rsp), %ecx
    mov %edi, %edx
    and $63, %ecx
    or %ecx, %edx
    mov %edx, -4(%rsp)
    ldmxcsr -4(%rsp)
    shr $32, %rdi
    mov %edi, -8(%rsp)
    fnstsw %ax
    not %edi
    and $63, %edi
    test %edi, %eax
    jz 1f
    fnclex
1:  fldcw -8(%rsp)
    ret
    end SYMBOL(copse_set_fp_environment)

#ifndef __APPLE__
// What this object can promise about Intel's control-flow enforcement (ABI, program property
// note). Indirect branch tracking: yes, every function above begins with endbr64, and the
// trampoline is only ever jumped to directly. Shadow stacks: no, the `ret` of copse_switch returns on
// another stack than it was called on. Claiming it anyway would be fatal; leaving the bit out
// makes the linker drop it for the whole program, which then runs without a shadow stack.
    .section .note.gnu.property, "a", @note
    .balign 8
    .long 4, 16, 5                  // size of the name, size of the rest, NT_GNU_PROPERTY_TYPE_0
    .asciz "GNU"
    .long 0xc0000002, 4             // GNU_PROPERTY_X86_FEATURE_1_AND, size of its value
    .long 1, 0                      // IBT; padding

// Nothing here needs an executable stack; without this section a linker would make one.
    .section .note.GNU-stack, "", @progbits
#endif
