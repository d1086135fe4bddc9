// RUN: attir opt %s --passes=lower-attention,canonicalize,cse | filecheck %s

"builtin.module"() ({
// Lists of tiles in place of branches: a loop over the tiles that the first range of `spans` names, without a mask,
// and one over those of the second. The number of the next tile is read one step ahead.
// CHECK: sym_name = "documents"
// CHECK: %[[BEGIN:.*]] = "tile.gather"(%spans
// CHECK: %full_begin_1 = "arith.index_cast"(%[[BEGIN]])
// CHECK: %key_tile = "tile.gather"(%tiles
// CHECK: "scf.for"(%full_begin_1, %full_end_1, %{{.*}}, %key_tile_1,
// CHECK-NOT: "scf.if"
// CHECK: %[[START:.*]] = "arith.muli"(%key_tile_2, %{{.*}})
// CHECK: %next_tile = "tile.gather"(%tiles
// CHECK: "tile.load"(%k_head, %[[START]],
// CHECK-NOT: "arith.select"
// CHECK: "scf.yield"(%next_tile_1,
// CHECK: "scf.for"(%cut_begin_1, %cut_end_1,
// CHECK-NOT: "scf.if"
// CHECK: "tile.gather"(%capture0
// CHECK: "arith.select"(%mask
// CHECK: "tile.return"()

// One program for each tile of rows of each batch finds out about four tiles of keys a step, from the extremes that
// a kernel before it leaves. What is neither full nor cut is overwritten.
// CHECK: num_warps = 1 : i64, sym_name = "documents_list"
// CHECK: %LM = "tensor.dim"(%spans
// CHECK: "tile.yield"
// CHECK: %least = "tile.gather"(%extremes
// CHECK: "scf.for"({{.*}}, %front, %back)
// CHECK-COUNT-8: "tile.gather"(%extremes
// CHECK-NOT: "tile.gather"
// CHECK-COUNT-4: "tile.store"({{.*}}%tiles
// CHECK: "scf.yield"
// CHECK-COUNT-4: "tile.store"({{.*}}%row,
// CHECK: "tile.return"()
// CHECK: sym_name = "documents_tables"
  "func.func"() <{function_type = (tensor<?x?x?x16xf16, #attir.sym<B, H, M>>, tensor<?x?x?x16xf16, #attir.sym<B, H, N>>, tensor<?x?x?x16xf16, #attir.sym<B, H, N>>, tensor<?x?xi32, #attir.sym<c0_0, c0_1>>) -> tensor<?x?x?x16xf16, #attir.sym<B, H, M>>, sym_name = "documents"}> ({
  ^bb0(%q: tensor<?x?x?x16xf16, #attir.sym<B, H, M>>, %k: tensor<?x?x?x16xf16, #attir.sym<B, H, N>>, %v: tensor<?x?x?x16xf16, #attir.sym<B, H, N>>, %capture0: tensor<?x?xi32, #attir.sym<c0_0, c0_1>>):
    %0, %1 = "attn.attention"(%q, %k, %v, %capture0) <{group = 1 : i64, scale = 2.5e-01 : f32}> ({
    }, {
    ^bb0(%b: index, %h: index, %m: index, %n: index, %capture0_1: tensor<?x?xi32, #attir.sym<c0_0, c0_1>>):
      %2 = "tensor.extract"(%capture0_1, %b, %m) : (tensor<?x?xi32, #attir.sym<c0_0, c0_1>>, index, index) -> i32
      %3 = "tensor.extract"(%capture0_1, %b, %n) : (tensor<?x?xi32, #attir.sym<c0_0, c0_1>>, index, index) -> i32
      %4 = "arith.cmpi"(%2, %3) <{predicate = 0 : i64}> : (i32, i32) -> i1
      "attn.yield"(%4) : (i1) -> ()
    }) {schedule = {block_m = 16 : i64, block_n = 16 : i64, lists = 1 : i64, num_stages = 2 : i64, num_warps = 4 : i64, precision = "ieee", reason = "", target = "interpret"}} : (tensor<?x?x?x16xf16, #attir.sym<B, H, M>>, tensor<?x?x?x16xf16, #attir.sym<B, H, N>>, tensor<?x?x?x16xf16, #attir.sym<B, H, N>>, tensor<?x?xi32, #attir.sym<c0_0, c0_1>>) -> (tensor<?x?x?x16xf16, #attir.sym<B, H, M>>, tensor<?x?x?xf32, #attir.sym<B, H, M>>)
    "func.return"(%0) : (tensor<?x?x?x16xf16, #attir.sym<B, H, M>>) -> ()
  }) : () -> ()
}) : () -> ()
