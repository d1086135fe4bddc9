// RUN: attir opt %s --passes=analyze-mask | filecheck %s

"builtin.module"() ({
// No mask keeps every key.
// CHECK-LABEL: sym_name = "unmasked"
// CHECK: structure = {opaque = false}
  "func.func"() <{function_type = (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>) -> tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, sym_name = "unmasked"}> ({
  ^bb0(%q: tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, %k: tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, %v: tensor<?x?x?x16xf32, #attir.sym<B, K, N>>):
    %0, %1 = "attn.attention"(%q, %k, %v) <{group = 1 : i64, scale = 2.5e-01 : f32}> ({
    }, {
    }) : (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>) -> (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?xf32, #attir.sym<B, H, M>>)
    "func.return"(%0) : (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>) -> ()
  }) : () -> ()

// A causal mask bounds keys from above by the query.
// CHECK-LABEL: sym_name = "causal"
// CHECK: structure = {opaque = false, upper = 0 : i64}
  "func.func"() <{function_type = (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>) -> tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, sym_name = "causal"}> ({
  ^bb0(%q: tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, %k: tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, %v: tensor<?x?x?x16xf32, #attir.sym<B, K, N>>):
    %0, %1 = "attn.attention"(%q, %k, %v) <{group = 1 : i64, scale = 2.5e-01 : f32}> ({
    }, {
    ^bb0(%b: index, %h: index, %m: index, %n: index):
      %2 = "arith.constant"() <{value = 0 : index}> : () -> index
      %3 = "arith.addi"(%m, %2) : (index, index) -> index
      %4 = "arith.cmpi"(%n, %3) <{predicate = 3 : i64}> : (index, index) -> i1
      "attn.yield"(%4) : (i1) -> ()
    }) : (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>) -> (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?xf32, #attir.sym<B, H, M>>)
    "func.return"(%0) : (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>) -> ()
  }) : () -> ()

// A window bounds them from both sides.
// CHECK-LABEL: sym_name = "window"
// CHECK: structure = {lower = -127 : i64, opaque = false, upper = 0 : i64}
  "func.func"() <{function_type = (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>) -> tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, sym_name = "window"}> ({
  ^bb0(%q: tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, %k: tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, %v: tensor<?x?x?x16xf32, #attir.sym<B, K, N>>):
    %0, %1 = "attn.attention"(%q, %k, %v) <{group = 1 : i64, scale = 2.5e-01 : f32}> ({
    }, {
    ^bb0(%b: index, %h: index, %m: index, %n: index):
      %2 = "arith.constant"() <{value = 128 : index}> : () -> index
      %3 = "arith.subi"(%m, %2) : (index, index) -> index
      %4 = "arith.cmpi"(%n, %3) <{predicate = 4 : i64}> : (index, index) -> i1
      %5 = "arith.cmpi"(%m, %n) <{predicate = 5 : i64}> : (index, index) -> i1
      %6 = "arith.andi"(%4, %5) : (i1, i1) -> i1
      "attn.yield"(%6) : (i1) -> ()
    }) : (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>) -> (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?xf32, #attir.sym<B, H, M>>)
    "func.return"(%0) : (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>) -> ()
  }) : () -> ()

// A distance is two comparisons.
// CHECK-LABEL: sym_name = "distance"
// CHECK: structure = {lower = -18 : i64, opaque = false, upper = 18 : i64}
  "func.func"() <{function_type = (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>) -> tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, sym_name = "distance"}> ({
  ^bb0(%q: tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, %k: tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, %v: tensor<?x?x?x16xf32, #attir.sym<B, K, N>>):
    %0, %1 = "attn.attention"(%q, %k, %v) <{group = 1 : i64, scale = 2.5e-01 : f32}> ({
    }, {
    ^bb0(%b: index, %h: index, %m: index, %n: index):
      %2 = "arith.subi"(%m, %n) : (index, index) -> index
      %3 = "math.absi"(%2) : (index) -> index
      %4 = "arith.constant"() <{value = 18 : index}> : () -> index
      %5 = "arith.cmpi"(%3, %4) <{predicate = 3 : i64}> : (index, index) -> i1
      "attn.yield"(%5) : (i1) -> ()
    }) : (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>) -> (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?xf32, #attir.sym<B, H, M>>)
    "func.return"(%0) : (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>) -> ()
  }) : () -> ()

// A mask in memory is opaque, but what stands beside it still bounds the loops.
// CHECK-LABEL: sym_name = "causal_padding"
// CHECK: structure = {opaque = true, upper = 0 : i64}
  "func.func"() <{function_type = (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?xi1, #attir.sym<c0_0, c0_1>>) -> tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, sym_name = "causal_padding"}> ({
  ^bb0(%q: tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, %k: tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, %v: tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, %capture0: tensor<?x?xi1, #attir.sym<c0_0, c0_1>>):
    %0, %1 = "attn.attention"(%q, %k, %v, %capture0) <{group = 1 : i64, scale = 2.5e-01 : f32}> ({
    }, {
    ^bb0(%b: index, %h: index, %m: index, %n: index, %capture0_1: tensor<?x?xi1, #attir.sym<c0_0, c0_1>>):
      %2 = "arith.constant"() <{value = 0 : index}> : () -> index
      %3 = "arith.addi"(%m, %2) : (index, index) -> index
      %4 = "arith.cmpi"(%n, %3) <{predicate = 3 : i64}> : (index, index) -> i1
      %5 = "tensor.extract"(%capture0_1, %b, %n) : (tensor<?x?xi1, #attir.sym<c0_0, c0_1>>, index, index) -> i1
      %6 = "arith.andi"(%4, %5) : (i1, i1) -> i1
      "attn.yield"(%6) : (i1) -> ()
    }) : (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?xi1, #attir.sym<c0_0, c0_1>>) -> (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?xf32, #attir.sym<B, H, M>>)
    "func.return"(%0) : (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>) -> ()
  }) : () -> ()

// A condition on the query alone bounds no key.
// CHECK-LABEL: sym_name = "some_rows"
// CHECK: structure = {opaque = true}
  "func.func"() <{function_type = (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>) -> tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, sym_name = "some_rows"}> ({
  ^bb0(%q: tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, %k: tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, %v: tensor<?x?x?x16xf32, #attir.sym<B, K, N>>):
    %0, %1 = "attn.attention"(%q, %k, %v) <{group = 1 : i64, scale = 2.5e-01 : f32}> ({
    }, {
    ^bb0(%b: index, %h: index, %m: index, %n: index):
      %2 = "arith.constant"() <{value = 5 : index}> : () -> index
      %3 = "arith.cmpi"(%m, %2) <{predicate = 2 : i64}> : (index, index) -> i1
      "attn.yield"(%3) : (i1) -> ()
    }) : (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>, tensor<?x?x?x16xf32, #attir.sym<B, K, N>>) -> (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>, tensor<?x?x?xf32, #attir.sym<B, H, M>>)
    "func.return"(%0) : (tensor<?x?x?x16xf32, #attir.sym<B, H, M>>) -> ()
  }) : () -> ()
}) : () -> ()
