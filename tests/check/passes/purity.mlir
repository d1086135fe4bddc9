// Which operations cse merges and dce drops: the guards of both, each with a neighbour that passes.
// RUN: attir opt %s --passes=cse --allow-unregistered-dialect | filecheck %s --check-prefix=MERGED
// RUN: attir opt %s --passes=dce --allow-unregistered-dialect | filecheck %s --check-prefix=DROPPED

// Drawing, checking, writing in place and what other libraries do have effects; __and__ has none.
// DROPPED-LABEL: sym_name = "effects"
// DROPPED-NEXT: ^bb0
// DROPPED-NEXT: aten.rand
// DROPPED-NEXT: aten._assert_async
// DROPPED-NEXT: aten.add_.Tensor
// DROPPED-NEXT: aten.add.out
// DROPPED-NEXT: fx.call
// DROPPED-NEXT: other.op
// DROPPED-NEXT: func.return
"func.func"() <{function_type = (tensor<4xi64>) -> (), sym_name = "effects"}> ({
^bb0(%x: tensor<4xi64>):
  %a = "aten.rand"() <{size = [4 : i64]}> : () -> tensor<4xf32>
  "aten._assert_async"(%x) <{args = ["self"]}> : (tensor<4xi64>) -> ()
  %b = "aten.add_.Tensor"(%x, %x) <{args = ["self", "other"]}> : (tensor<4xi64>, tensor<4xi64>) -> tensor<4xi64>
  %c = "aten.add.out"(%x, %x, %x) <{args = ["self", "other", "out"]}> : (tensor<4xi64>, tensor<4xi64>, tensor<4xi64>) -> tensor<4xi64>
  %d = "fx.call"(%x) : (tensor<4xi64>) -> tensor<4xi64>
  %e = "other.op"(%x) : (tensor<4xi64>) -> tensor<4xi64>
  %f = "aten.__and__.Tensor"(%x, %x) <{args = ["self", "other"]}> : (tensor<4xi64>, tensor<4xi64>) -> tensor<4xi64>
  "func.return"() : () -> ()
}) : () -> ()

// Attention with dropout draws; without, it does not.
// DROPPED-LABEL: sym_name = "attention_dropout"
// DROPPED: dropout_p = 5.0e-01
// DROPPED-NOT: aten.scaled_dot_product_attention
// DROPPED: func.return
"func.func"() <{function_type = (tensor<1x1x4x8xf32>) -> (), sym_name = "attention_dropout"}> ({
^bb0(%q: tensor<1x1x4x8xf32>):
  %a = "aten.scaled_dot_product_attention"(%q, %q, %q) <{args = ["query", "key", "value"], dropout_p = 0.5 : f64}> : (tensor<1x1x4x8xf32>, tensor<1x1x4x8xf32>, tensor<1x1x4x8xf32>) -> tensor<1x1x4x8xf32>
  %b = "aten.scaled_dot_product_attention"(%q, %q, %q) <{args = ["query", "key", "value"]}> : (tensor<1x1x4x8xf32>, tensor<1x1x4x8xf32>, tensor<1x1x4x8xf32>) -> tensor<1x1x4x8xf32>
  "func.return"() : () -> ()
}) : () -> ()

// A loop that computes nothing anybody reads goes; one that stores stays.
// DROPPED-LABEL: sym_name = "loops"
// DROPPED: "scf.for"
// DROPPED-NEXT: ^bb0
// DROPPED-NEXT: "fx.print"
// DROPPED-NOT: scf.for
// DROPPED: func.return
"func.func"() <{function_type = (index, f32) -> (), sym_name = "loops"}> ({
^bb0(%n: index, %x: f32):
  %zero = "arith.constant"() <{value = 0 : index}> : () -> index
  %one = "arith.constant"() <{value = 1 : index}> : () -> index
  %silent = "scf.for"(%zero, %n, %one, %x) ({
  ^bb0(%i: index, %s: f32):
    %t = "arith.addf"(%s, %s) : (f32, f32) -> f32
    "scf.yield"(%t) : (f32) -> ()
  }) : (index, index, index, f32) -> f32
  %speaking = "scf.for"(%zero, %n, %one, %x) ({
  ^bb0(%i2: index, %s2: f32):
    "fx.print"(%s2) : (f32) -> ()
    "scf.yield"(%s2) : (f32) -> ()
  }) : (index, index, index, f32) -> f32
  "func.return"() : () -> ()
}) : () -> ()

// What a branch computes is not visible beside it; what stands before it is.
// MERGED-LABEL: sym_name = "scopes"
// MERGED: %[[BEFORE:.*]] = "math.exp"(%x)
// MERGED: "scf.if"
// MERGED-NEXT: %[[THEN:.*]] = "math.sin"(%x)
// MERGED-NEXT: "scf.yield"(%[[BEFORE]], %[[THEN]])
// MERGED: %[[ELSE:.*]] = "math.sin"(%x)
// MERGED-NEXT: "scf.yield"(%[[BEFORE]], %[[ELSE]])
// MERGED: "math.sin"(%x)
"func.func"() <{function_type = (i1, f32) -> (f32, f32, f32, f32), sym_name = "scopes"}> ({
^bb0(%c: i1, %x: f32):
  %before = "math.exp"(%x) : (f32) -> f32
  %a, %b = "scf.if"(%c) ({
    %again = "math.exp"(%x) : (f32) -> f32
    %then = "math.sin"(%x) : (f32) -> f32
    "scf.yield"(%again, %then) : (f32, f32) -> ()
  }, {
    %again2 = "math.exp"(%x) : (f32) -> f32
    %else = "math.sin"(%x) : (f32) -> f32
    "scf.yield"(%again2, %else) : (f32, f32) -> ()
  }) : (i1) -> (f32, f32)
  %after = "math.sin"(%x) : (f32) -> f32
  "func.return"(%before, %a, %b, %after) : (f32, f32, f32, f32) -> ()
}) : () -> ()

// Two results of the graph stay two tensors, also behind a view: the caller may write into one.
// MERGED-LABEL: sym_name = "results"
// MERGED: %[[A:.*]] = "aten.relu"(%x)
// MERGED: %[[B:.*]] = "aten.relu"(%x)
// MERGED: %[[V:.*]] = "aten.view"(%[[B]])
// MERGED: "func.return"(%[[A]], %[[V]])
"func.func"() <{function_type = (tensor<4xf32>) -> (tensor<4xf32>, tensor<2x2xf32>), sym_name = "results"}> ({
^bb0(%x: tensor<4xf32>):
  %a = "aten.relu"(%x) <{args = ["self"]}> : (tensor<4xf32>) -> tensor<4xf32>
  %b = "aten.relu"(%x) <{args = ["self"]}> : (tensor<4xf32>) -> tensor<4xf32>
  %v = "aten.view"(%b) <{args = ["self"], size = [2 : i64, 2 : i64]}> : (tensor<4xf32>) -> tensor<2x2xf32>
  "func.return"(%a, %v) : (tensor<4xf32>, tensor<2x2xf32>) -> ()
}) : () -> ()

// Loads are dropped when unused, but not merged: there may be a store between them.
// MERGED-LABEL: sym_name = "memory"
// MERGED: "tile.load"
// MERGED: "tile.load"
// DROPPED-LABEL: sym_name = "memory"
// DROPPED-NOT: tile.load
// DROPPED: tile.return
"tile.kernel"() <{function_type = (tensor<?xf32>) -> (), num_stages = 1 : i64, num_warps = 4 : i64, sym_name = "memory"}> ({
^bb0(%x: tensor<?xf32>):
  %one = "arith.constant"() <{value = 1 : index}> : () -> index
  "tile.yield"(%one) : (index) -> ()
}, {
^bb0(%y: tensor<?xf32>):
  %zero = "arith.constant"() <{value = 0 : index}> : () -> index
  %a = "tile.load"(%y, %zero) <{boundary = array<i64: 0>}> : (tensor<?xf32>, index) -> tensor<16xf32>
  %b = "tile.load"(%y, %zero) <{boundary = array<i64: 0>}> : (tensor<?xf32>, index) -> tensor<16xf32>
  "tile.return"() : () -> ()
}) : () -> ()
