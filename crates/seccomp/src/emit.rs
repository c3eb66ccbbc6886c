//! Instructions, written from the last to the first.
//!
//! Jumps in this machine only go forward, and conditional ones at most 255 instructions. Writing
//! backwards means every target is known when a jump to it is written.

use std::collections::HashMap;

use crate::action::Action;

/// One instruction, as the kernel reads it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SockFilter {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if true.
    pub jt: u8,
    /// Instructions to skip if false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

const LD_W_ABS: u16 = 0x20;
const ALU_AND_K: u16 = 0x54;
const JMP_JA: u16 = 0x05;
const JMP_JEQ_K: u16 = 0x15;
const JMP_JGT_K: u16 = 0x25;
const JMP_JGE_K: u16 = 0x35;
const RET_K: u16 = 0x06;

/// How far a conditional jump reaches.
const MAX_CONDITIONAL_SKIP: usize = u8::MAX as usize;

/// A comparison of the accumulator with a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Test {
    Equal,
    Greater,
    GreaterOrEqual,
}

/// A written instruction that jumps can go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// A program under construction, last instruction first.
#[derive(Debug, Default)]
pub(crate) struct Emitter {
    reversed: Vec<SockFilter>,
    returns: HashMap<u32, Label>,
}

impl Emitter {
    /// The finished program.
    pub(crate) fn finish(mut self) -> Vec<SockFilter> {
        self.reversed.reverse();
        self.reversed
    }

    pub(crate) fn len(&self) -> usize {
        self.reversed.len()
    }

    /// An instruction that ends the program with this action; written once and shared.
    pub(crate) fn ret(&mut self, action: Action) -> Label {
        let value = action.return_value();
        if let Some(label) = self.returns.get(&value) {
            return *label;
        }
        self.write_return(value)
    }

    /// Loads a word of the call's data and goes on at `next`.
    pub(crate) fn load(&mut self, offset: u32, next: Label) -> Label {
        self.fall_through_to(next);
        self.push(LD_W_ABS, 0, 0, offset)
    }

    /// Masks the accumulator and goes on at `next`.
    pub(crate) fn and(&mut self, mask: u32, next: Label) -> Label {
        self.fall_through_to(next);
        self.push(ALU_AND_K, 0, 0, mask)
    }

    /// Goes to `yes` if the accumulator compares so with `value`, else to `no`.
    pub(crate) fn branch(&mut self, test: Test, value: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        // A stepping stone moves the other target further away, so look until both are near.
        let (mut yes, mut no) = (yes, no);
        while self.skip(yes) > MAX_CONDITIONAL_SKIP || self.skip(no) > MAX_CONDITIONAL_SKIP {
            if self.skip(no) > MAX_CONDITIONAL_SKIP {
                no = self.stepping_stone(no);
            }
            if self.skip(yes) > MAX_CONDITIONAL_SKIP {
                yes = self.stepping_stone(yes);
            }
        }
        let code = match test {
            Test::Equal => JMP_JEQ_K,
            Test::Greater => JMP_JGT_K,
            Test::GreaterOrEqual => JMP_JGE_K,
        };
        let (jt, jf) = (self.skip(yes) as u8, self.skip(no) as u8);
        self.push(code, jt, jf, value)
    }

    /// Instructions between the next one to be written and `target`.
    fn skip(&self, target: Label) -> usize {
        self.reversed.len() - target.0 - 1
    }

    fn fall_through_to(&mut self, next: Label) {
        if self.skip(next) != 0 {
            self.stepping_stone(next);
        }
    }

    /// Something near that leads to `target`: a copy if it is an end, else an unconditional jump.
    fn stepping_stone(&mut self, target: Label) -> Label {
        let instruction = self.reversed[target.0];
        if instruction.code == RET_K {
            return self.write_return(instruction.k);
        }
        let skip = self.skip(target) as u32;
        self.push(JMP_JA, 0, 0, skip)
    }

    fn write_return(&mut self, value: u32) -> Label {
        let label = self.push(RET_K, 0, 0, value);
        self.returns.insert(value, label);
        label
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(SockFilter { code, jt, jf, k });
        Label(self.reversed.len() - 1)
    }
}
