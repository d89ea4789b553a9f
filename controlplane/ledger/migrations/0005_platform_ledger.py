"""A ledger of what belongs to no tenant, append-only as the tenants' are."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('ledger', '0004_where_from'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='PlatformHead',
            fields=[
                ('seq', models.BigIntegerField(default=0)),
                ('digest', models.BinaryField(max_length=32)),
                ('id', models.SmallIntegerField(default=1, primary_key=True, serialize=False)),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('id', 1)), name='platform_head_is_one')],
            },
        ),
        migrations.CreateModel(
            name='PlatformEntry',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('seq', models.BigIntegerField()),
                ('at', models.DateTimeField()),
                ('kind', models.CharField(max_length=64)),
                ('actor', models.CharField(help_text="The person's address, or system.", max_length=254)),
                ('subject', models.CharField(help_text='The object, such as agent:reporter.', max_length=254)),
                ('channel', models.CharField(blank=True, help_text='The way in; empty in entries of early versions.', max_length=16)),
                ('address', models.CharField(blank=True, help_text="The client's address, where there is one.", max_length=45)),
                ('before', models.JSONField(null=True)),
                ('after', models.JSONField(null=True)),
                ('digest', models.BinaryField(max_length=32)),
                ('actor_user', models.ForeignKey(db_constraint=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'verbose_name': 'platform entry',
                'verbose_name_plural': 'platform entries',
                'ordering': ('-seq',),
                'indexes': [models.Index(fields=['-at'], name='ledger_plat_at_f2e86a_idx')],
                'constraints': [models.UniqueConstraint(fields=('seq',), name='platform_seq_once')],
            },
        ),
        migrations.RunSQL("SELECT narrowgate_make_append_only('ledger_platformentry')", migrations.RunSQL.noop),
    ]
