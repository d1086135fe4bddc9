// RUN: attir opt %s --passes=lower-attention | filecheck %s

"builtin.module"() ({
// A causal mask: whole tiles first and unmasked, then the tiles on the diagonal; the longest programs first.
// CHECK-LABEL: "tile.kernel"()
// CHECK-SAME: num_warps = 4 : i64, sym_name = "causal"
// CHECK: "tile.yield"(%{{.*}}) : (index) -> ()
// CHECK: %[[PID:.*]] = "tile.program_id"() <{axis = 0 : i64}>
// CHECK: %[[PLACE:.*]] = "arith.remsi"(%[[PID]], %programs_at_once)
// CHECK: %[[TILE:.*]] = "arith.divsi"(%[[PLACE]], %heads_here)
// CHECK: %{{.*}} = "arith.subi"(%{{.*}}, %[[TILE]])
// CHECK: %[[LAST:.*]] = "arith.minsi"({{.*}}) : (tensor<16xindex>, tensor<16xindex>) -> tensor<16xindex>
// CHECK: "scf.for"({{.*}}%full_end
// CHECK: "tile.load"(%k_head, {{.*}}) <{boundary = array<i64>}>
// CHECK-NOT: "arith.select"
// CHECK: "tile.dot"({{.*}}) <{precision = "ieee"}>
// CHECK-NOT: "arith.select"
// CHECK: "scf.for"(%full_end, %end,
// CHECK: "tile.load"(%k_head, {{.*}}) <{boundary = array<i64: 0>}>
// CHECK: %mask = "arith.cmpi"
// CHECK: "arith.select"(%mask,
// CHECK: "tile.store"(%{{.*}}, %out_head, %start_m, %{{.*}}) <{boundary = array<i64: 0>}>
// CHECK: "tile.return"()
  "func.func"() <{function_type = (tensor<?x?x?x16xf16, #attir.sym<B, H, M>>, tensor<?x?x?x16xf16, #attir.sym<B, K, N>>, tensor<?x?x?x16xf16, #attir.sym<B, K, N>>) -> tensor<?x?x?x16xf16, #attir.sym<B, H, M>>, sym_name = "causal"}> ({
  ^bb0(%q: tensor<?x?x?x16xf16, #attir.sym<B, H, M>>, %k: tensor<?x?x?x16xf16, #attir.sym<B, K, N>>, %v: tensor<?x?x?x16xf16, #attir.sym<B, K, N>>):
    %0, %1 = "attn.attention"(%q, %k, %v) <{group = 1 : i64, scale = 2.5e-01 : f32}> ({
    }, {
    ^bb0(%b: index, %h: index, %m: index, %n: index):
      %2 = "arith.constant"() <{value = 0 : index}> : () -> index
      %3 = "arith.addi"(%m, %2) : (index, index) -> index
      %4 = "arith.cmpi"(%n, %3) <{predicate = 3 : i64}> : (index, index) -> i1
      "attn.yield"(%4) : (i1) -> ()
    }) {schedule = {block_m = 16 : i64, block_n = 16 : i64, num_stages = 2 : i64, num_warps = 4 : i64, precision = "ieee", reason = "", target = "interpret"}} : (tensor<?x?x?x16xf16, #attir.sym<B, H, M>>, tensor<?x?x?x16xf16, #attir.sym<B, K, N>>, tensor<?x?x?x16xf16, #attir.sym<B, K, N>>) -> (tensor<?x?x?x16xf16, #attir.sym<B, H, M>>, tensor<?x?x?xf32, #attir.sym<B, H, M>>)
    "func.return"(%0) : (tensor<?x?x?x16xf16, #attir.sym<B, H, M>>) -> ()
  }) : () -> ()

// A mask of keys: one loop, in which a tile of dropped keys costs nothing and the mask is read only in tiles that it
// cuts. Which tiles are which is found by a small kernel before.
// CHECK-LABEL: sym_name = "padding"
// CHECK: "scf.for"({{.*}}, %N{{.*}},
// CHECK: %least{{.*}} = "tile.gather"(%extremes
// CHECK: "scf.if"(%live)
// CHECK: "tile.dot"
// CHECK: "scf.if"(%cut)
// CHECK: "tile.gather"(%capture0{{.*}}) <{masked}> : (tensor<?x1x1x?xi1,
// CHECK: %mask{{.*}} = "arith.andi"(
// CHECK: "arith.select"(
// CHECK-NOT: "scf.for"
// CHECK: "tile.return"()
// CHECK: sym_name = "padding_tables"
// CHECK: "scf.for"
// CHECK: "tile.gather"(%capture0{{.*}}) <{masked}>
// CHECK: "arith.minsi"({{.*}}) : (tensor<128xi32>, tensor<128xi32>)
// CHECK: "arith.maxsi"({{.*}}) : (tensor<128xi32>, tensor<128xi32>)
// CHECK: "tile.store"(%least
// CHECK: "tile.store"(%largest
// CHECK: "tile.return"()
  "func.func"() <{function_type = (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x1x1x?xi1, #attir.sym<c0_0, c0_3>>) -> tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, sym_name = "padding"}> ({
  ^bb0(%q: tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, %k: tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, %v: tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, %capture0: tensor<?x1x1x?xi1, #attir.sym<c0_0, c0_3>>):
    %0, %1 = "attn.attention"(%q, %k, %v, %capture0) <{group = 1 : i64, scale = 2.5e-01 : f32}> ({
    }, {
    ^bb0(%b: index, %h: index, %m: index, %n: index, %capture0_1: tensor<?x1x1x?xi1, #attir.sym<c0_0, c0_3>>):
      %2 = "arith.constant"() <{value = 0 : index}> : () -> index
      %3 = "arith.constant"() <{value = 0 : index}> : () -> index
      %4 = "tensor.extract"(%capture0_1, %b, %2, %3, %n) : (tensor<?x1x1x?xi1, #attir.sym<c0_0, c0_3>>, index, index, index, index) -> i1
      "attn.yield"(%4) : (i1) -> ()
    }) {schedule = {block_m = 16 : i64, block_n = 16 : i64, num_stages = 2 : i64, num_warps = 4 : i64, precision = "ieee", reason = "", target = "interpret"}} : (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x1x1x?xi1, #attir.sym<c0_0, c0_3>>) -> (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?xf32, #attir.sym<B, H, M>>)
    "func.return"(%0) : (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>) -> ()
  }) : () -> ()

// A mask that is read for each score tells no tile from another: every tile is computed, and nothing comes before.
// CHECK-LABEL: sym_name = "dense"
// CHECK: "scf.for"(%begin{{.*}}, %N{{.*}},
// CHECK-NOT: "scf.if"
// CHECK: "tile.gather"(%capture0{{.*}}) <{masked}> : (tensor<?x?xi1,
// CHECK: "arith.select"(
// CHECK-NOT: "scf.for"
// CHECK: "tile.return"()
// CHECK-NOT: sym_name = "dense_tables"
  "func.func"() <{function_type = (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?xi1, #attir.sym<c0_0, c0_1>>) -> tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, sym_name = "dense"}> ({
  ^bb0(%q: tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, %k: tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, %v: tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, %capture0: tensor<?x?xi1, #attir.sym<c0_0, c0_1>>):
    %0, %1 = "attn.attention"(%q, %k, %v, %capture0) <{group = 1 : i64, scale = 2.5e-01 : f32}> ({
    }, {
    ^bb0(%b: index, %h: index, %m: index, %n: index, %capture0_1: tensor<?x?xi1, #attir.sym<c0_0, c0_1>>):
      %2 = "arith.constant"() <{value = 0 : index}> : () -> index
      %3 = "arith.constant"() <{value = 0 : index}> : () -> index
      %4 = "tensor.extract"(%capture0_1, %m, %n) : (tensor<?x?xi1, #attir.sym<c0_0, c0_1>>, index, index) -> i1
      "attn.yield"(%4) : (i1) -> ()
    }) {schedule = {block_m = 16 : i64, block_n = 16 : i64, num_stages = 2 : i64, num_warps = 4 : i64, precision = "ieee", reason = "", target = "interpret"}} : (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?xi1, #attir.sym<c0_0, c0_1>>) -> (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?xf32, #attir.sym<B, H, M>>)
    "func.return"(%0) : (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>) -> ()
  }) : () -> ()

// Rows that keep no key look again: all values, each with weight 1, for these rows alone.
// CHECK-LABEL: sym_name = "averaging"
// CHECK: "scf.for"
// CHECK: %empty_row{{.*}} = "arith.cmpf"(%row_sum
// CHECK: %some_empty{{.*}} = "tile.any"(%empty_row
// CHECK: "scf.if"(%some_empty
// CHECK: "scf.for"
// CHECK: %count{{.*}} = "arith.addf"
// CHECK: "tile.dot"
// CHECK: "arith.select"(%{{.*}}, %acc{{.*}}, %acc
// CHECK: "tile.return"()
  "func.func"() <{function_type = (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?xi1, #attir.sym<c0_0, c0_1>>) -> tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, sym_name = "averaging"}> ({
  ^bb0(%q: tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, %k: tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, %v: tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, %capture0: tensor<?x?xi1, #attir.sym<c0_0, c0_1>>):
    %0, %1 = "attn.attention"(%q, %k, %v, %capture0) <{empty_score = -1.0e9 : f32, group = 1 : i64, scale = 2.5e-01 : f32}> ({
    }, {
    ^bb0(%b: index, %h: index, %m: index, %n: index, %capture0_1: tensor<?x?xi1, #attir.sym<c0_0, c0_1>>):
      %2 = "arith.constant"() <{value = 0 : index}> : () -> index
      %3 = "arith.constant"() <{value = 0 : index}> : () -> index
      %4 = "tensor.extract"(%capture0_1, %m, %n) : (tensor<?x?xi1, #attir.sym<c0_0, c0_1>>, index, index) -> i1
      "attn.yield"(%4) : (i1) -> ()
    }) {schedule = {block_m = 16 : i64, block_n = 16 : i64, num_stages = 2 : i64, num_warps = 4 : i64, precision = "ieee", reason = "", target = "interpret"}} : (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?xi1, #attir.sym<c0_0, c0_1>>) -> (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?xf32, #attir.sym<B, H, M>>)
    "func.return"(%0) : (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>) -> ()
  }) : () -> ()

// What depends on the query alone is computed before the loops; the scale is not folded, since the region reads scores.
// CHECK-LABEL: sym_name = "row_bias"
// CHECK: "tile.gather"(%capture0{{.*}}) <{masked}>
// CHECK: "scf.for"
// CHECK-NOT: "tile.gather"
// CHECK: dense<2.5e-01>
// CHECK-NOT: "tile.gather"
// CHECK: "tile.return"()
  "func.func"() <{function_type = (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?xf32, #attir.sym<c0_0>>) -> tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, sym_name = "row_bias"}> ({
  ^bb0(%q: tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, %k: tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, %v: tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, %capture0: tensor<?xf32, #attir.sym<c0_0>>):
    %0, %1 = "attn.attention"(%q, %k, %v, %capture0) <{group = 1 : i64, scale = 2.5e-01 : f32}> ({
    ^bb0(%s: f32, %b: index, %h: index, %m: index, %n: index, %capture0_1: tensor<?xf32, #attir.sym<c0_0>>):
      %2 = "tensor.extract"(%capture0_1, %m) : (tensor<?xf32, #attir.sym<c0_0>>, index) -> f32
      %3 = "arith.addf"(%s, %2) : (f32, f32) -> f32
      "attn.yield"(%3) : (f32) -> ()
    }, {
    }) {schedule = {block_m = 16 : i64, block_n = 16 : i64, num_stages = 2 : i64, num_warps = 4 : i64, precision = "ieee", reason = "", target = "interpret"}} : (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?xf32, #attir.sym<c0_0>>) -> (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?xf32, #attir.sym<B, H, M>>)
    "func.return"(%0) : (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>) -> ()
  }) : () -> ()
}) : () -> ()
