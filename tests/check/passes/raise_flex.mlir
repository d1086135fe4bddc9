// A call of flex_attention is read to its last operator; its block lists go where they add nothing.
// RUN: attir opt %s --passes=raise-flex,dce | filecheck %s
// RUN: attir opt %s --passes=raise-flex --debug-patterns 2>&1 | filecheck %s --check-prefix=WHY

// One block over everything, as PyTorch makes where none is given, is no mask.
// CHECK-LABEL: sym_name = "plain"
// CHECK-NOT: flex_attention
// CHECK: "attn.attention"(%q, %k, %v) <{group = 1 : i64, scale = 2.5e-01 : f32}> ({
// CHECK-NEXT: }, {
// CHECK-NEXT: }) :
"func.func"() <{function_type = (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>) -> tensor<1x2x8x16xf32>, sym_name = "plain"}> ({
^bb0(%q: tensor<1x2x8x16xf32>, %k: tensor<1x2x8x16xf32>, %v: tensor<1x2x8x16xf32>):
  %count = "aten.ones"() <{dtype = i32, size = [1 : i64, 1 : i64, 1 : i64]}> : () -> tensor<1x1x1xi32>
  %column = "aten.zeros"() <{dtype = i32, size = [1 : i64, 1 : i64, 1 : i64, 1 : i64]}> : () -> tensor<1x1x1x1xi32>
  %o, %lse, %max = "aten.flex_attention"(%q, %k, %v, %count, %column) <{args = ["query", "key", "value", "kv_num_blocks", "kv_indices"], kv_block = 1073741824 : i64, q_block = 1073741824 : i64, scale = 2.5e-01 : f64}> ({
  ^bb0(%s: tensor<f32>, %b: tensor<i32>, %h: tensor<i32>, %m: tensor<i32>, %n: tensor<i32>):
    "fx.yield"(%s) : (tensor<f32>) -> ()
  }, {
  ^bb1(%b: tensor<i32>, %h: tensor<i32>, %m: tensor<i32>, %n: tensor<i32>):
    %t = "aten.new_ones"(%b) <{args = ["self"], dtype = i1, size = []}> : (tensor<i32>) -> tensor<i1>
    "fx.yield"(%t) : (tensor<i1>) -> ()
  }) : (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x1x1xi32>, tensor<1x1x1x1xi32>) -> (tensor<1x2x8x16xf32>, tensor<1x2x8xf32>, tensor<1x2x8xf32>)
  "func.return"(%o) : (tensor<1x2x8x16xf32>) -> ()
}) : () -> ()

// score_mod and mask_mod become regions; a captured table is read at the head.
// CHECK-LABEL: sym_name = "mods"
// CHECK: "attn.attention"(%q, %k, %v, %bias)
// CHECK: ^bb0(%[[S:.*]]: f32, %{{.*}}: index, %[[H:.*]]: index, %[[M:.*]]: index, %[[N:.*]]: index, %[[BIAS:.*]]: tensor<2xf32>):
// CHECK: "tensor.extract"(%[[BIAS]], %[[H]])
// CHECK: "arith.addf"(%[[S]],
// CHECK: ^bb0(%{{.*}}: index, %{{.*}}: index, %[[M2:.*]]: index, %[[N2:.*]]: index,
// CHECK-NEXT: "arith.cmpi"(%[[M2]], %[[N2]]) <{predicate = 5 : i64}>
"func.func"() <{function_type = (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<2xf32>) -> tensor<1x2x8x16xf32>, sym_name = "mods"}> ({
^bb0(%q: tensor<1x2x8x16xf32>, %k: tensor<1x2x8x16xf32>, %v: tensor<1x2x8x16xf32>, %bias: tensor<2xf32>):
  %count = "aten.ones"() <{dtype = i32, size = [1 : i64, 1 : i64, 1 : i64]}> : () -> tensor<1x1x1xi32>
  %column = "aten.zeros"() <{dtype = i32, size = [1 : i64, 1 : i64, 1 : i64, 1 : i64]}> : () -> tensor<1x1x1x1xi32>
  %o, %lse, %max = "aten.flex_attention"(%q, %k, %v, %count, %column) <{args = ["query", "key", "value", "kv_num_blocks", "kv_indices"], kv_block = 1073741824 : i64, q_block = 1073741824 : i64, scale = 2.5e-01 : f64}> ({
  ^bb0(%s: tensor<f32>, %b: tensor<i32>, %h: tensor<i32>, %m: tensor<i32>, %n: tensor<i32>):
    %d = "aten.sub.Tensor"(%m, %n) <{args = ["self", "other"]}> : (tensor<i32>, tensor<i32>) -> tensor<i32>
    %x = "aten.index.Tensor"(%bias, %h) <{args = ["self", "indices"], indices = [#aten.operand]}> : (tensor<2xf32>, tensor<i32>) -> tensor<f32>
    %y = "aten.mul.Tensor"(%x, %d) <{args = ["self", "other"]}> : (tensor<f32>, tensor<i32>) -> tensor<f32>
    %z = "aten.add.Tensor"(%s, %y) <{args = ["self", "other"]}> : (tensor<f32>, tensor<f32>) -> tensor<f32>
    "fx.yield"(%z) : (tensor<f32>) -> ()
  }, {
  ^bb1(%b: tensor<i32>, %h: tensor<i32>, %m: tensor<i32>, %n: tensor<i32>):
    %c = "aten.ge.Tensor"(%m, %n) <{args = ["self", "other"]}> : (tensor<i32>, tensor<i32>) -> tensor<i1>
    "fx.yield"(%c) : (tensor<i1>) -> ()
  }) : (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x1x1xi32>, tensor<1x1x1x1xi32>) -> (tensor<1x2x8x16xf32>, tensor<1x2x8xf32>, tensor<1x2x8xf32>)
  "func.return"(%o) : (tensor<1x2x8x16xf32>) -> ()
}) : () -> ()

// Lists from elsewhere become a table of small integers, read at the block of the query and that of the key.
// CHECK-LABEL: sym_name = "lists"
// CHECK: %[[ONCE:.*]] = "aten.scatter.value"({{.*}}value = 1 : i64
// CHECK: %[[TWICE:.*]] = "aten.scatter.value"(%[[ONCE]],{{.*}}value = 2 : i64
// CHECK: %[[BLOCKS:.*]] = "aten.slice.Tensor"(%[[TWICE]]){{.*}} -> tensor<1x1x2x2xi8>
// CHECK: "attn.attention"(%q, %k, %v, %[[BLOCKS]])
// CHECK: %[[ROW:.*]] = "arith.floordivsi"(%m
// CHECK: %[[COLUMN:.*]] = "arith.floordivsi"(%n
// CHECK: "tensor.extract"(%{{.*}}, %[[ROW]], %[[COLUMN]])
// CHECK: "arith.extsi"
// CHECK: "arith.ori"
"func.func"() <{function_type = (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x1x2xi32>, tensor<1x1x2x2xi32>, tensor<1x1x2xi32>, tensor<1x1x2x2xi32>) -> tensor<1x2x8x16xf32>, sym_name = "lists"}> ({
^bb0(%q: tensor<1x2x8x16xf32>, %k: tensor<1x2x8x16xf32>, %v: tensor<1x2x8x16xf32>, %counts: tensor<1x1x2xi32>, %columns: tensor<1x1x2x2xi32>, %full_counts: tensor<1x1x2xi32>, %full_columns: tensor<1x1x2x2xi32>):
  %o, %lse, %max = "aten.flex_attention"(%q, %k, %v, %counts, %columns, %full_counts, %full_columns) <{args = ["query", "key", "value", "kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices"], kv_block = 4 : i64, q_block = 4 : i64, scale = 2.5e-01 : f64}> ({
  ^bb0(%s: tensor<f32>, %b: tensor<i32>, %h: tensor<i32>, %m: tensor<i32>, %n: tensor<i32>):
    "fx.yield"(%s) : (tensor<f32>) -> ()
  }, {
  ^bb1(%b: tensor<i32>, %h: tensor<i32>, %m: tensor<i32>, %n: tensor<i32>):
    %c = "aten.ge.Tensor"(%m, %n) <{args = ["self", "other"]}> : (tensor<i32>, tensor<i32>) -> tensor<i1>
    "fx.yield"(%c) : (tensor<i1>) -> ()
  }) : (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x1x2xi32>, tensor<1x1x2x2xi32>, tensor<1x1x2xi32>, tensor<1x1x2x2xi32>) -> (tensor<1x2x8x16xf32>, tensor<1x2x8xf32>, tensor<1x2x8xf32>)
  "func.return"(%o) : (tensor<1x2x8x16xf32>) -> ()
}) : () -> ()

// The log-sum-exp is asked for in powers of 2 and turned back at once: it stays natural.
// CHECK-LABEL: sym_name = "statistic"
// CHECK: %[[O:.*]], %[[LSE:.*]] = "attn.attention"
// CHECK-NOT: aten.mul
// CHECK: "func.return"(%[[O]], %[[LSE]])
"func.func"() <{function_type = (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>) -> (tensor<1x2x8x16xf32>, tensor<1x2x8xf32>), sym_name = "statistic"}> ({
^bb0(%q: tensor<1x2x8x16xf32>, %k: tensor<1x2x8x16xf32>, %v: tensor<1x2x8x16xf32>):
  %count = "aten.ones"() <{dtype = i32, size = [1 : i64, 1 : i64, 1 : i64]}> : () -> tensor<1x1x1xi32>
  %column = "aten.zeros"() <{dtype = i32, size = [1 : i64, 1 : i64, 1 : i64, 1 : i64]}> : () -> tensor<1x1x1x1xi32>
  %o, %lse, %max = "aten.flex_attention"(%q, %k, %v, %count, %column) <{args = ["query", "key", "value", "kv_num_blocks", "kv_indices"], kv_block = 1073741824 : i64, q_block = 1073741824 : i64, scale = 2.5e-01 : f64}> ({
  ^bb0(%s: tensor<f32>, %b: tensor<i32>, %h: tensor<i32>, %m: tensor<i32>, %n: tensor<i32>):
    "fx.yield"(%s) : (tensor<f32>) -> ()
  }, {
  ^bb1(%b: tensor<i32>, %h: tensor<i32>, %m: tensor<i32>, %n: tensor<i32>):
    %t = "aten.new_ones"(%b) <{args = ["self"], dtype = i1, size = []}> : (tensor<i32>) -> tensor<i1>
    "fx.yield"(%t) : (tensor<i1>) -> ()
  }) : (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x1x1xi32>, tensor<1x1x1x1xi32>) -> (tensor<1x2x8x16xf32>, tensor<1x2x8xf32>, tensor<1x2x8xf32>)
  %natural = "aten.mul.Tensor"(%lse) <{args = ["self"], other = 0.6931471805599453 : f64}> : (tensor<1x2x8xf32>) -> tensor<1x2x8xf32>
  "func.return"(%o, %natural) : (tensor<1x2x8x16xf32>, tensor<1x2x8xf32>) -> ()
}) : () -> ()

// The largest score of a row comes from no kernel.
// CHECK-LABEL: sym_name = "largest"
// CHECK: aten.flex_attention
// WHY: the largest score of each row
"func.func"() <{function_type = (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>) -> (tensor<1x2x8x16xf32>, tensor<1x2x8xf32>), sym_name = "largest"}> ({
^bb0(%q: tensor<1x2x8x16xf32>, %k: tensor<1x2x8x16xf32>, %v: tensor<1x2x8x16xf32>):
  %count = "aten.ones"() <{dtype = i32, size = [1 : i64, 1 : i64, 1 : i64]}> : () -> tensor<1x1x1xi32>
  %column = "aten.zeros"() <{dtype = i32, size = [1 : i64, 1 : i64, 1 : i64, 1 : i64]}> : () -> tensor<1x1x1x1xi32>
  %o, %lse, %max = "aten.flex_attention"(%q, %k, %v, %count, %column) <{args = ["query", "key", "value", "kv_num_blocks", "kv_indices"], kv_block = 1073741824 : i64, q_block = 1073741824 : i64, scale = 2.5e-01 : f64}> ({
  ^bb0(%s: tensor<f32>, %b: tensor<i32>, %h: tensor<i32>, %m: tensor<i32>, %n: tensor<i32>):
    "fx.yield"(%s) : (tensor<f32>) -> ()
  }, {
  ^bb1(%b: tensor<i32>, %h: tensor<i32>, %m: tensor<i32>, %n: tensor<i32>):
    %t = "aten.new_ones"(%b) <{args = ["self"], dtype = i1, size = []}> : (tensor<i32>) -> tensor<i1>
    "fx.yield"(%t) : (tensor<i1>) -> ()
  }) : (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x1x1xi32>, tensor<1x1x1x1xi32>) -> (tensor<1x2x8x16xf32>, tensor<1x2x8xf32>, tensor<1x2x8xf32>)
  "func.return"(%o, %max) : (tensor<1x2x8x16xf32>, tensor<1x2x8xf32>) -> ()
}) : () -> ()

// A function that is not understood to its end is named.
// CHECK-LABEL: sym_name = "unknown"
// CHECK: aten.flex_attention
// WHY: score_mod uses 'aten.special_bessel_j0', which is not understood
"func.func"() <{function_type = (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>) -> tensor<1x2x8x16xf32>, sym_name = "unknown"}> ({
^bb0(%q: tensor<1x2x8x16xf32>, %k: tensor<1x2x8x16xf32>, %v: tensor<1x2x8x16xf32>):
  %count = "aten.ones"() <{dtype = i32, size = [1 : i64, 1 : i64, 1 : i64]}> : () -> tensor<1x1x1xi32>
  %column = "aten.zeros"() <{dtype = i32, size = [1 : i64, 1 : i64, 1 : i64, 1 : i64]}> : () -> tensor<1x1x1x1xi32>
  %o, %lse, %max = "aten.flex_attention"(%q, %k, %v, %count, %column) <{args = ["query", "key", "value", "kv_num_blocks", "kv_indices"], kv_block = 1073741824 : i64, q_block = 1073741824 : i64, scale = 2.5e-01 : f64}> ({
  ^bb0(%s: tensor<f32>, %b: tensor<i32>, %h: tensor<i32>, %m: tensor<i32>, %n: tensor<i32>):
    %x = "aten.special_bessel_j0"(%s) <{args = ["self"]}> : (tensor<f32>) -> tensor<f32>
    "fx.yield"(%x) : (tensor<f32>) -> ()
  }, {
  ^bb1(%b: tensor<i32>, %h: tensor<i32>, %m: tensor<i32>, %n: tensor<i32>):
    %t = "aten.new_ones"(%b) <{args = ["self"], dtype = i1, size = []}> : (tensor<i32>) -> tensor<i1>
    "fx.yield"(%t) : (tensor<i1>) -> ()
  }) : (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x1x1xi32>, tensor<1x1x1x1xi32>) -> (tensor<1x2x8x16xf32>, tensor<1x2x8xf32>, tensor<1x2x8xf32>)
  "func.return"(%o) : (tensor<1x2x8x16xf32>) -> ()
}) : () -> ()

// Lists for fewer queries than there are have no meaning.
// CHECK-LABEL: sym_name = "too_few_rows"
// CHECK: aten.flex_attention
// WHY: the block mask has 2 rows of 3 queries, but there are 8 queries
"func.func"() <{function_type = (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x1x2xi32>, tensor<1x1x2x2xi32>) -> tensor<1x2x8x16xf32>, sym_name = "too_few_rows"}> ({
^bb0(%q: tensor<1x2x8x16xf32>, %k: tensor<1x2x8x16xf32>, %v: tensor<1x2x8x16xf32>, %counts: tensor<1x1x2xi32>, %columns: tensor<1x1x2x2xi32>):
  %o, %lse, %max = "aten.flex_attention"(%q, %k, %v, %counts, %columns) <{args = ["query", "key", "value", "kv_num_blocks", "kv_indices"], kv_block = 3 : i64, q_block = 3 : i64, scale = 2.5e-01 : f64}> ({
  ^bb0(%s: tensor<f32>, %b: tensor<i32>, %h: tensor<i32>, %m: tensor<i32>, %n: tensor<i32>):
    "fx.yield"(%s) : (tensor<f32>) -> ()
  }, {
  ^bb1(%b: tensor<i32>, %h: tensor<i32>, %m: tensor<i32>, %n: tensor<i32>):
    %c = "aten.ge.Tensor"(%m, %n) <{args = ["self", "other"]}> : (tensor<i32>, tensor<i32>) -> tensor<i1>
    "fx.yield"(%c) : (tensor<i1>) -> ()
  }) : (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x1x2xi32>, tensor<1x1x2x2xi32>) -> (tensor<1x2x8x16xf32>, tensor<1x2x8xf32>, tensor<1x2x8xf32>)
  "func.return"(%o) : (tensor<1x2x8x16xf32>) -> ()
}) : () -> ()
