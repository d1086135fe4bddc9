// RUN: attir opt %s --passes=swap-operands,swap-operands --verify-each | filecheck %s
// RUN: attir opt %s --passes=swap-operands,canonicalize --verify-each | filecheck %s --check-prefix=CLEAN

"builtin.module"() ({
// Factors change places, axes flip, memory stays as it is; the property is gone.
// CHECK-LABEL: "tile.kernel"()
// CHECK-NOT: swapped
// CHECK: %[[Q:.*]] = "tile.load"(%q{{.*}}) <{boundary = array<i64: 0>}> : {{.*}} -> tensor<16x32xf16>
// CHECK: %[[QT:.*]] = "tile.transpose"(%[[Q]]) : (tensor<16x32xf16>) -> tensor<32x16xf16>
// CHECK: "arith.constant"() <{value = dense<0.0> : tensor<32x16xf32>}>
// CHECK: %[[LOOP:.*]] = "scf.for"({{.*}}%acc
// CHECK: ^bb{{[0-9]+}}(%{{.*}}: index, %{{.*}}: tensor<32x16xf32>):
// CHECK: %[[K:.*]] = "tile.load"(%k{{.*}}) -> tensor<64x32xf16>
// CHECK: %[[KT:.*]] = "tile.transpose"(%[[K]]) : (tensor<64x32xf16>) -> tensor<32x64xf16>
// CHECK: %[[KTT:.*]] = "tile.transpose"(%[[KT]]) : (tensor<32x64xf16>) -> tensor<64x32xf16>
// CHECK: "tile.dot"(%[[KTT]], %[[QT]], %{{.*}}) {{.*}} -> tensor<64x16xf32>
// CHECK: "tile.broadcast"(%{{.*}}) <{axes = array<i64: 1>}> : (tensor<64xindex>) -> tensor<64x16xindex>
// CHECK: "tile.broadcast"(%{{.*}}) <{axes = array<i64: 0>}> : (tensor<16xindex>) -> tensor<64x16xindex>
// CHECK: "arith.cmpi"({{.*}}) <{predicate = 3 : i64}> : (tensor<64x16xindex>, tensor<64x16xindex>) -> tensor<64x16xi1>
// CHECK: "tile.gather"(%table{{.*}}) <{masked}> : (tensor<?x?xf32>, index, tensor<64x16xindex>, tensor<64x16xi1>) -> tensor<64x16xf32>
// CHECK: "tile.any"({{.*}}) : (tensor<64x16xi1>) -> i1
// CHECK: "scf.if"({{.*}}) ({
// CHECK: "scf.yield"({{.*}}) : (tensor<64x16xf32>)
// CHECK: }) : (i1) -> tensor<64x16xf32>
// CHECK: "tile.reduce"({{.*}}) <{axis = 0 : i64, kind = "max"}> : (tensor<64x16xf32>) -> tensor<16xf32>
// CHECK: "tile.store"({{.*}}) <{boundary = array<i64: 0>}> : (tensor<16xf32>, tensor<?xf32>, index) -> ()
// CHECK: "tile.broadcast"({{.*}}) <{axes = array<i64: 0>}> : (tensor<16xf32>) -> tensor<32x16xf32>
// CHECK: %[[V:.*]] = "tile.load"(%v{{.*}}) -> tensor<64x32xf16>
// CHECK: %[[VT:.*]] = "tile.transpose"(%[[V]]) : (tensor<64x32xf16>) -> tensor<32x64xf16>
// CHECK: "tile.dot"(%[[VT]], {{.*}}) : (tensor<32x64xf16>, tensor<64x16xf16>, tensor<32x16xf32>) -> tensor<32x16xf32>
// CHECK: %[[OUT:.*]] = "tile.transpose"(%[[LOOP]]) : (tensor<32x16xf32>) -> tensor<16x32xf32>
// CHECK: "tile.store"(%[[OUT]], %out{{.*}}) <{boundary = array<i64: 0>}>
// CHECK: %[[AGAIN:.*]] = "tile.transpose"(%[[LOOP]])
// CHECK: "tile.atomic_add"(%[[AGAIN]], %out

// What the program transposed itself needs no transpose any more.
// CLEAN: %[[Q:.*]] = "tile.load"(%q
// CLEAN: %[[QT:.*]] = "tile.transpose"(%[[Q]])
// CLEAN: %[[K:.*]] = "tile.load"(%k
// CLEAN-NOT: "tile.transpose"
// CLEAN: "tile.dot"(%[[K]], %[[QT]],
  "tile.kernel"() <{function_type = (tensor<?x32xf16>, tensor<?x32xf16>, tensor<?x32xf16>, tensor<?x?xf32>, tensor<?x32xf32>, tensor<?xf32>) -> (), sym_name = "attention", swapped}> ({
  ^bb0(%q: tensor<?x32xf16>, %k: tensor<?x32xf16>, %v: tensor<?x32xf16>, %table: tensor<?x?xf32>, %out: tensor<?x32xf32>, %lse: tensor<?xf32>):
    %one = "arith.constant"() <{value = 1 : index}> : () -> index
    "tile.yield"(%one) : (index) -> ()
  }, {
  ^bb0(%q: tensor<?x32xf16>, %k: tensor<?x32xf16>, %v: tensor<?x32xf16>, %table: tensor<?x?xf32>, %out: tensor<?x32xf32>, %lse: tensor<?xf32>):
    %zero = "arith.constant"() <{value = 0 : index}> : () -> index
    %step = "arith.constant"() <{value = 64 : index}> : () -> index
    %keys = "tensor.dim"(%k, %zero) : (tensor<?x32xf16>, index) -> index
    %q_tile = "tile.load"(%q, %zero, %zero) <{boundary = array<i64: 0>}> : (tensor<?x32xf16>, index, index) -> tensor<16x32xf16>
    %rows = "tile.iota"() : () -> tensor<16xindex>
    %acc = "arith.constant"() <{value = dense<0.0> : tensor<16x32xf32>}> : () -> tensor<16x32xf32>
    %sum = "scf.for"(%zero, %keys, %step, %acc) ({
    ^bb1(%start: index, %before: tensor<16x32xf32>):
      %k_tile = "tile.load"(%k, %start, %zero) <{boundary = array<i64: 0>}> : (tensor<?x32xf16>, index, index) -> tensor<64x32xf16>
      %k_t = "tile.transpose"(%k_tile) : (tensor<64x32xf16>) -> tensor<32x64xf16>
      %none = "arith.constant"() <{value = dense<0.0> : tensor<16x64xf32>}> : () -> tensor<16x64xf32>
      %raw = "tile.dot"(%q_tile, %k_t, %none) : (tensor<16x32xf16>, tensor<32x64xf16>, tensor<16x64xf32>) -> tensor<16x64xf32>
      %columns = "tile.iota"() : () -> tensor<64xindex>
      %n = "tile.broadcast"(%columns) <{axes = array<i64: 0>}> : (tensor<64xindex>) -> tensor<16x64xindex>
      %m = "tile.broadcast"(%rows) <{axes = array<i64: 1>}> : (tensor<16xindex>) -> tensor<16x64xindex>
      %keep = "arith.cmpi"(%n, %m) <{predicate = 3 : i64}> : (tensor<16x64xindex>, tensor<16x64xindex>) -> tensor<16x64xi1>
      %bias = "tile.gather"(%table, %zero, %n, %keep) <{masked}> : (tensor<?x?xf32>, index, tensor<16x64xindex>, tensor<16x64xi1>) -> tensor<16x64xf32>
      %scores = "arith.addf"(%raw, %bias) : (tensor<16x64xf32>, tensor<16x64xf32>) -> tensor<16x64xf32>
      %some = "tile.any"(%keep) : (tensor<16x64xi1>) -> i1
      %p = "scf.if"(%some) ({
        %power = "math.exp2"(%scores) : (tensor<16x64xf32>) -> tensor<16x64xf32>
        "scf.yield"(%power) : (tensor<16x64xf32>) -> ()
      }, {
        "scf.yield"(%scores) : (tensor<16x64xf32>) -> ()
      }) : (i1) -> tensor<16x64xf32>
      %largest = "tile.reduce"(%p) <{axis = 1 : i64, kind = "max"}> : (tensor<16x64xf32>) -> tensor<16xf32>
      "tile.store"(%largest, %lse, %zero) <{boundary = array<i64: 0>}> : (tensor<16xf32>, tensor<?xf32>, index) -> ()
      %factor = "tile.broadcast"(%largest) <{axes = array<i64: 1>}> : (tensor<16xf32>) -> tensor<16x32xf32>
      %kept = "arith.mulf"(%before, %factor) : (tensor<16x32xf32>, tensor<16x32xf32>) -> tensor<16x32xf32>
      %v_tile = "tile.load"(%v, %start, %zero) <{boundary = array<i64: 0>}> : (tensor<?x32xf16>, index, index) -> tensor<64x32xf16>
      %cast = "arith.truncf"(%p) : (tensor<16x64xf32>) -> tensor<16x64xf16>
      %after = "tile.dot"(%cast, %v_tile, %kept) : (tensor<16x64xf16>, tensor<64x32xf16>, tensor<16x32xf32>) -> tensor<16x32xf32>
      "scf.yield"(%after) : (tensor<16x32xf32>) -> ()
    }) : (index, index, index, tensor<16x32xf32>) -> tensor<16x32xf32>
    "tile.store"(%sum, %out, %zero, %zero) <{boundary = array<i64: 0>}> : (tensor<16x32xf32>, tensor<?x32xf32>, index, index) -> ()
    "tile.atomic_add"(%sum, %out, %zero, %zero) <{boundary = array<i64: 0>}> : (tensor<16x32xf32>, tensor<?x32xf32>, index, index) -> ()
    "tile.return"() : () -> ()
  }) : () -> ()

// A kernel that does not ask for it stays.
// CHECK-LABEL: sym_name = "plain"
// CHECK-NOT: "tile.transpose"
// CHECK: "tile.store"(%ones, {{.*}}) : (tensor<4x8xf32>,
  "tile.kernel"() <{function_type = (tensor<4x8xf32>) -> (), sym_name = "plain"}> ({
  ^bb0(%x: tensor<4x8xf32>):
    %one = "arith.constant"() <{value = 1 : index}> : () -> index
    "tile.yield"(%one) : (index) -> ()
  }, {
  ^bb0(%x: tensor<4x8xf32>):
    %zero = "arith.constant"() <{value = 0 : index}> : () -> index
    %ones = "arith.constant"() <{value = dense<1.0> : tensor<4x8xf32>}> : () -> tensor<4x8xf32>
    "tile.store"(%ones, %x, %zero, %zero) : (tensor<4x8xf32>, tensor<4x8xf32>, index, index) -> ()
    "tile.return"() : () -> ()
  }) : () -> ()
}) : () -> ()
