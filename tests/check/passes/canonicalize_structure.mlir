// Sizes, tiles, branches and loops whose outcome is known.
// RUN: attir opt %s --passes=canonicalize | filecheck %s

// A constant size is a constant; one known at run time is asked for.
// CHECK-LABEL: sym_name = "size"
// CHECK-DAG: %[[EIGHT:.*]] = "arith.constant"() <{value = 8 : index}>
// CHECK-DAG: %[[SIZE:.*]] = "tensor.dim"
// CHECK: "func.return"(%[[EIGHT]], %[[SIZE]])
"func.func"() <{function_type = (tensor<8x?xf32>) -> (index, index), sym_name = "size"}> ({
^bb0(%x: tensor<8x?xf32>):
  %zero = "arith.constant"() <{value = 0 : index}> : () -> index
  %one = "arith.constant"() <{value = 1 : index}> : () -> index
  %a = "tensor.dim"(%x, %zero) : (tensor<8x?xf32>, index) -> index
  %b = "tensor.dim"(%x, %one) : (tensor<8x?xf32>, index) -> index
  "func.return"(%a, %b) : (index, index) -> ()
}) : () -> ()

// An element of a constant tensor is that constant; so is its transpose, and what it is spread over.
// CHECK-LABEL: sym_name = "constants"
// CHECK-DAG: %[[SCALAR:.*]] = "arith.constant"() <{value = 5.0e-01 : f32}>
// CHECK-DAG: %[[TURNED:.*]] = "arith.constant"() <{value = dense<5.0e-01> : tensor<4x2xf32>}>
// CHECK-DAG: %[[SPREAD:.*]] = "arith.constant"() <{value = dense<5.0e-01> : tensor<4xf32>}>
// CHECK: "func.return"(%[[SCALAR]], %[[TURNED]], %[[SPREAD]])
"func.func"() <{function_type = (index) -> (f32, tensor<4x2xf32>, tensor<4xf32>), sym_name = "constants"}> ({
^bb0(%i: index):
  %half = "arith.constant"() <{value = 0.5 : f32}> : () -> f32
  %tile = "arith.constant"() <{value = dense<0.5> : tensor<2x4xf32>}> : () -> tensor<2x4xf32>
  %a = "tensor.extract"(%tile, %i, %i) : (tensor<2x4xf32>, index, index) -> f32
  %b = "tile.transpose"(%tile) : (tensor<2x4xf32>) -> tensor<4x2xf32>
  %c = "tile.broadcast"(%half) <{axes = array<i64: 0>}> : (f32) -> tensor<4xf32>
  "func.return"(%a, %b, %c) : (f32, tensor<4x2xf32>, tensor<4xf32>) -> ()
}) : () -> ()

// Two transposes, a slice at no index and a broadcast along no axis are nothing; one transpose stays.
// CHECK-LABEL: sym_name = "unchanged"
// CHECK: %[[ONCE:.*]] = "tile.transpose"(%x)
// CHECK-NEXT: "func.return"(%x, %x, %x, %[[ONCE]])
"func.func"() <{function_type = (tensor<2x4xf32>) -> (tensor<2x4xf32>, tensor<2x4xf32>, tensor<2x4xf32>, tensor<4x2xf32>), sym_name = "unchanged"}> ({
^bb0(%x: tensor<2x4xf32>):
  %once = "tile.transpose"(%x) : (tensor<2x4xf32>) -> tensor<4x2xf32>
  %twice = "tile.transpose"(%once) : (tensor<4x2xf32>) -> tensor<2x4xf32>
  %slice = "tile.slice"(%x) : (tensor<2x4xf32>) -> tensor<2x4xf32>
  %spread = "tile.broadcast"(%x) <{axes = array<i64>}> : (tensor<2x4xf32>) -> tensor<2x4xf32>
  "func.return"(%twice, %slice, %spread, %once) : (tensor<2x4xf32>, tensor<2x4xf32>, tensor<2x4xf32>, tensor<4x2xf32>) -> ()
}) : () -> ()

// The branch that is taken moves in front; the other goes.
// CHECK-LABEL: sym_name = "branch"
// CHECK: %[[SUM:.*]] = "arith.addf"(%x, %x)
// CHECK-NEXT: "func.return"(%[[SUM]])
"func.func"() <{function_type = (f32) -> f32, sym_name = "branch"}> ({
^bb0(%x: f32):
  %true = "arith.constant"() <{value = true}> : () -> i1
  %a = "scf.if"(%true) ({
    %sum = "arith.addf"(%x, %x) : (f32, f32) -> f32
    "scf.yield"(%sum) : (f32) -> ()
  }, {
    %product = "arith.mulf"(%x, %x) : (f32, f32) -> f32
    "scf.yield"(%product) : (f32) -> ()
  }) : (i1) -> f32
  "func.return"(%a) : (f32) -> ()
}) : () -> ()

// A condition known at run time keeps both.
// CHECK-LABEL: sym_name = "open_branch"
// CHECK: "scf.if"(%c)
"func.func"() <{function_type = (i1, f32, f32) -> f32, sym_name = "open_branch"}> ({
^bb0(%c: i1, %x: f32, %y: f32):
  %a = "scf.if"(%c) ({
    "scf.yield"(%x) : (f32) -> ()
  }, {
    "scf.yield"(%y) : (f32) -> ()
  }) : (i1) -> f32
  "func.return"(%a) : (f32) -> ()
}) : () -> ()

// A loop that cannot run gives what it began with; one that may run stays.
// CHECK-LABEL: sym_name = "loops"
// CHECK: %[[RUN:.*]] = "scf.for"
// CHECK-NOT: scf.for
// CHECK: "func.return"(%x, %x, %[[RUN]])
"func.func"() <{function_type = (index, f32) -> (f32, f32, f32), sym_name = "loops"}> ({
^bb0(%n: index, %x: f32):
  %zero = "arith.constant"() <{value = 0 : index}> : () -> index
  %one = "arith.constant"() <{value = 1 : index}> : () -> index
  %never = "scf.for"(%one, %zero, %one, %x) ({
  ^bb0(%i: index, %s: f32):
    %t = "arith.addf"(%s, %s) : (f32, f32) -> f32
    "scf.yield"(%t) : (f32) -> ()
  }) : (index, index, index, f32) -> f32
  %nowhere = "scf.for"(%n, %n, %one, %x) ({
  ^bb0(%i2: index, %s2: f32):
    %t2 = "arith.addf"(%s2, %s2) : (f32, f32) -> f32
    "scf.yield"(%t2) : (f32) -> ()
  }) : (index, index, index, f32) -> f32
  %run = "scf.for"(%zero, %n, %one, %x) ({
  ^bb0(%i3: index, %s3: f32):
    %t3 = "arith.addf"(%s3, %s3) : (f32, f32) -> f32
    "scf.yield"(%t3) : (f32) -> ()
  }) : (index, index, index, f32) -> f32
  "func.return"(%never, %nowhere, %run) : (f32, f32, f32) -> ()
}) : () -> ()
