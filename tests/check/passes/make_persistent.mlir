// RUN: attir opt %s --passes=make-persistent,make-persistent --verify-each | filecheck %s

"builtin.module"() ({
// The body counts the tiles as the grid does, and each program does every 132nd of them.
// CHECK-LABEL: "tile.kernel"()
// CHECK-NOT: persistent
// CHECK: %[[ROWS:.*]] = "tensor.dim"(%x,
// CHECK: %[[TILES:.*]] = "arith.divsi"(%[[ROWS]],
// CHECK: %[[PROGRAMS:.*]] = "arith.constant"() <{value = 132 : index}>
// CHECK: %[[GRID:.*]] = "arith.minsi"(%[[TILES]], %[[PROGRAMS]])
// CHECK: "tile.yield"(%[[GRID]])
// CHECK: %[[ROWS:.*]] = "tensor.dim"(%x{{.*}},
// CHECK: %[[TILES:.*]] = "arith.divsi"(%[[ROWS]],
// CHECK: %[[FIRST:.*]] = "tile.program_id"() <{axis = 0 : i64}>
// CHECK: %[[STEP:.*]] = "arith.constant"() <{value = 132 : index}>
// CHECK: "scf.for"(%[[FIRST]], %[[TILES]], %[[STEP]]) ({
// CHECK: ^bb{{[0-9]+}}(%[[PID:.*]]: index):
// CHECK-NOT: "tile.program_id"
// CHECK: "arith.muli"(%[[PID]],
// CHECK: "scf.if"
// CHECK: "arith.addi"(%[[PID]],
// CHECK: "tile.store"({{.*}}%start)
// CHECK-NEXT: "scf.yield"() : () -> ()
// CHECK-NEXT: })
// CHECK-NEXT: "tile.return"()
  "tile.kernel"() <{function_type = (tensor<?xf32>) -> (), persistent = 132 : i64, sym_name = "ones"}> ({
  ^bb0(%x: tensor<?xf32>):
    %axis = "arith.constant"() <{value = 0 : index}> : () -> index
    %size = "arith.constant"() <{value = 64 : index}> : () -> index
    %rows = "tensor.dim"(%x, %axis) : (tensor<?xf32>, index) -> index
    %tiles = "arith.divsi"(%rows, %size) : (index, index) -> index
    "tile.yield"(%tiles) : (index) -> ()
  }, {
  ^bb0(%x: tensor<?xf32>):
    %pid = "tile.program_id"() <{axis = 0 : i64}> : () -> index
    %size = "arith.constant"() <{value = 64 : index}> : () -> index
    %start = "arith.muli"(%pid, %size) : (index, index) -> index
    %true = "arith.constant"() <{value = true}> : () -> i1
    %ones = "arith.constant"() <{value = dense<1.0> : tensor<64xf32>}> : () -> tensor<64xf32>
    "scf.if"(%true) ({
      %again = "tile.program_id"() <{axis = 0 : i64}> : () -> index
      %next = "arith.addi"(%again, %size) : (index, index) -> index
      "tile.store"(%ones, %x, %next) : (tensor<64xf32>, tensor<?xf32>, index) -> ()
      "scf.yield"() : () -> ()
    }, {
    }) : (i1) -> ()
    "tile.store"(%ones, %x, %start) : (tensor<64xf32>, tensor<?xf32>, index) -> ()
    "tile.return"() : () -> ()
  }) : () -> ()
}) : () -> ()
