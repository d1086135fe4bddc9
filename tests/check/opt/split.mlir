// Chunks are programs of their own and come out as such.
// RUN: attir opt %s --split-input-file --passes=dce --verify-each | filecheck %s

// CHECK: sym_name = "first"
// CHECK: // -----
// CHECK: sym_name = "second"
"func.func"() <{function_type = () -> (), sym_name = "first"}> ({
  "func.return"() : () -> ()
}) : () -> ()

// -----

"func.func"() <{function_type = () -> (), sym_name = "second"}> ({
  "func.return"() : () -> ()
}) : () -> ()
