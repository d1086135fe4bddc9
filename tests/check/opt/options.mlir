// Options of attir opt: what goes to stdout is IR, everything said goes to stderr.
// RUN: attir opt %s --passes=canonicalize --statistics --timing 2>&1 | filecheck %s --check-prefix=SAID
// RUN: attir opt %s --passes=canonicalize,dce --print-ir-after=dce --print-ir-before=canonicalize 2>&1 | filecheck %s --check-prefix=IR
// RUN: not attir opt %s --passes=canonicalise 2>&1 | filecheck %s --check-prefix=PASS
// RUN: not attir opt %s --passes=plan{speed=3} 2>&1 | filecheck %s --check-prefix=OPTION
// RUN: not attir opt %s --passes=canonicalize --print-ir-after=cse 2>&1 | filecheck %s --check-prefix=ABSENT

// SAID: "func.func"
// SAID: ms  canonicalize
// IR: canonicalize
// IR: arith.addf
// IR: dce
// PASS: unknown pass 'canonicalise'; did you mean 'canonicalize'?
// OPTION: pass 'plan' has no option 'speed' (it has target: str, rows: int, wishes: list of str, sizes: str, threads: int)
// ABSENT: pass 'cse' is not in the pipeline
"func.func"() <{function_type = () -> f32, sym_name = "sum"}> ({
  %0 = "arith.constant"() <{value = 1.0 : f32}> : () -> f32
  %1 = "arith.constant"() <{value = 2.0 : f32}> : () -> f32
  %2 = "arith.addf"(%0, %1) : (f32, f32) -> f32
  "func.return"(%2) : (f32) -> ()
}) : () -> ()
