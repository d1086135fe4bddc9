// RUN: attir opt %s --passes=lower-attention | filecheck %s
// RUN: attir opt %s --passes=lower-attention,canonicalize,cse,dce --verify-each | filecheck %s --check-prefix=CLEAN

"builtin.module"() ({
// Exact widths, all in f32, the scale in q; whole tiles of 24 keys, then tiles of 8 on the diagonal.
// CHECK-LABEL: "tile.kernel"()
// CHECK-SAME: columns = 4 : i64,
// CHECK-SAME: lanes = 4 : i64,
// CHECK-SAME: sym_name = "prefill"
// CHECK: %q_tile = "tile.load"(%q_head, %start_m, %{{.*}}) <{boundary = array<i64: 0>}> : {{.*}} -> tensor<12x24xf16>
// CHECK: "arith.extf"(%q_tile) : (tensor<12x24xf16>) -> tensor<12x24xf32>
// CHECK: %q_scaled = "arith.mulf"
// CHECK: "scf.for"(%begin, %full_end
// CHECK: "tile.load"(%k_head, {{.*}}) <{boundary = array<i64>}> : {{.*}} -> tensor<24x24xf16>
// CHECK: "tile.dot"({{.*}}) {{.*}} : (tensor<12x24xf32>, tensor<24x24xf32>, tensor<12x24xf32>) -> tensor<12x24xf32>
// CHECK: "arith.subf"
// CHECK: "arith.mulf"
// CHECK: "math.exp2"
// CHECK-NOT: "arith.truncf"
// CHECK: "scf.for"(%full_end, %end
// CHECK: "tile.load"(%k_head, {{.*}}) <{boundary = array<i64: 0>}> : {{.*}} -> tensor<8x24xf16>
// CHECK: "arith.truncf"({{.*}}) : (tensor<12x24xf32>) -> tensor<12x24xf16>
// CHECK: "tile.return"()
// CLEAN: sym_name = "prefill"
  "func.func"() <{function_type = (tensor<?x?x?x24xf16, #attir.sym<B, H, M>>, tensor<?x?x?x24xf16, #attir.sym<B, K, N>>, tensor<?x?x?x24xf16, #attir.sym<B, K, N>>) -> tensor<?x?x?x24xf16, #attir.sym<B, H, M>>, sym_name = "prefill"}> ({
  ^bb0(%q: tensor<?x?x?x24xf16, #attir.sym<B, H, M>>, %k: tensor<?x?x?x24xf16, #attir.sym<B, K, N>>, %v: tensor<?x?x?x24xf16, #attir.sym<B, K, N>>):
    %0, %1 = "attn.attention"(%q, %k, %v) <{group = 1 : i64, scale = 2.5e-01 : f32}> ({
    }, {
    ^bb0(%b: index, %h: index, %m: index, %n: index):
      %2 = "arith.cmpi"(%n, %m) <{predicate = 3 : i64}> : (index, index) -> i1
      "attn.yield"(%2) : (i1) -> ()
    }) {schedule = {block_m = 12 : i64, block_n = 24 : i64, columns = 4 : i64, edge_n = 8 : i64, folded = 0 : i64, lanes = 4 : i64, num_stages = 1 : i64, num_warps = 1 : i64, split = 0 : i64, target = "avx2"}} : (tensor<?x?x?x24xf16, #attir.sym<B, H, M>>, tensor<?x?x?x24xf16, #attir.sym<B, K, N>>, tensor<?x?x?x24xf16, #attir.sym<B, K, N>>) -> (tensor<?x?x?x24xf16, #attir.sym<B, H, M>>, tensor<?x?x?xf32, #attir.sym<B, H, M>>)
    "func.return"(%0) : (tensor<?x?x?x24xf16, #attir.sym<B, H, M>>) -> ()
  }) : () -> ()

// Folded rows and split keys: a kernel for the parts and one that merges them, in this order.
// CHECK-LABEL: sym_name = "decode"
// CHECK: %S{{.*}} = "tensor.dim"(%part_out
// CHECK: "tile.yield"(%programs{{.*}})
// CHECK: %split = "arith.remsi"(%pid{{.*}}, %S
// CHECK: %q_head{{.*}} = "tile.group_rows"(%q{{.*}}, %b{{.*}}, %kh) <{group = 4 : i64}> : ({{.*}}) -> tensor<?x24xf16>
// CHECK: %chunk{{.*}} = "arith.muli"
// CHECK: "tile.slice"(%part_out{{.*}}, %split) :
// CHECK: %out_head{{.*}} = "tile.group_rows"({{.*}}) <{group = 4 : i64}> : ({{.*}}) -> tensor<?x24xf32>
// CHECK: "tile.store"(%out_tile{{.*}}, %out_head{{.*}}, %start_m
// CHECK: %lse_head{{.*}} = "tile.group_rows"({{.*}}) <{group = 4 : i64}> : ({{.*}}) -> tensor<?xf32>
// CHECK: "tile.return"()
// CHECK: sym_name = "decode_merge"
// CHECK: "scf.for"(
// CHECK: "tile.gather"(%part_lse
// CHECK: "arith.maximumf"
// CHECK: "tile.store"({{.*}}, %out_head
// CHECK: "tile.return"()
// CLEAN: sym_name = "decode"
// CLEAN: sym_name = "decode_merge"
  "func.func"() <{function_type = (tensor<?x?x?x24xf16, #attir.sym<B, H, M>>, tensor<?x?x?x24xf16, #attir.sym<B, K, N>>, tensor<?x?x?x24xf16, #attir.sym<B, K, N>>) -> tensor<?x?x?x24xf16, #attir.sym<B, H, M>>, sym_name = "decode"}> ({
  ^bb0(%q: tensor<?x?x?x24xf16, #attir.sym<B, H, M>>, %k: tensor<?x?x?x24xf16, #attir.sym<B, K, N>>, %v: tensor<?x?x?x24xf16, #attir.sym<B, K, N>>):
    %0, %1 = "attn.attention"(%q, %k, %v) <{group = 4 : i64, scale = 2.5e-01 : f32}> ({
    }, {
    ^bb0(%b: index, %h: index, %m: index, %n: index):
      %2 = "arith.cmpi"(%n, %m) <{predicate = 3 : i64}> : (index, index) -> i1
      "attn.yield"(%2) : (i1) -> ()
    }) {schedule = {block_m = 4 : i64, block_n = 16 : i64, columns = 4 : i64, edge_n = 8 : i64, folded = 1 : i64, lanes = 4 : i64, num_stages = 1 : i64, num_warps = 1 : i64, split = 1 : i64, target = "avx2"}} : (tensor<?x?x?x24xf16, #attir.sym<B, H, M>>, tensor<?x?x?x24xf16, #attir.sym<B, K, N>>, tensor<?x?x?x24xf16, #attir.sym<B, K, N>>) -> (tensor<?x?x?x24xf16, #attir.sym<B, H, M>>, tensor<?x?x?xf32, #attir.sym<B, H, M>>)
    "func.return"(%0) : (tensor<?x?x?x24xf16, #attir.sym<B, H, M>>) -> ()
  }) : () -> ()
}) : () -> ()
