// A grid of more than one axis is refused.
// RUN: attir opt %s --passes=make-persistent --split-input-file --verify-diagnostics

"builtin.module"() ({
  // expected-error@+1 {{must have one axis of programs to be persistent, but has 2}}
  "tile.kernel"() <{function_type = (tensor<?xf32>) -> (), persistent = 132 : i64, sym_name = "plane"}> ({
  ^bb0(%x: tensor<?xf32>):
    %one = "arith.constant"() <{value = 1 : index}> : () -> index
    "tile.yield"(%one, %one) : (index, index) -> ()
  }, {
  ^bb0(%x: tensor<?xf32>):
    "tile.return"() : () -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "tile.kernel"() <{function_type = (tensor<?xf32>) -> (), persistent = 132 : i64, sym_name = "sideways"}> ({
  ^bb0(%x: tensor<?xf32>):
    %one = "arith.constant"() <{value = 1 : index}> : () -> index
    "tile.yield"(%one) : (index) -> ()
  }, {
  ^bb0(%x: tensor<?xf32>):
    // expected-error@+1 {{axis must be 0 in a persistent kernel, but is 1}}
    %pid = "tile.program_id"() <{axis = 1 : i64}> : () -> index
    "tile.return"() : () -> ()
  }) : () -> ()
}) : () -> ()
